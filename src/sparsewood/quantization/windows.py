"""k-means in one dimension for many points: good clusters from densities, improved until the best ones are near."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sparsewood.quantization.exact import exact_edges
from sparsewood.quantization.points import Edges, Floats, Points, apart

__all__ = ["coarse_edges", "density_edges", "improved"]

_BINS = 4096
_TAIL = 256
_HALVINGS = 60
_MOST_STEPS = 50
_WORTH_A_STEP = 1e-3
_WORTH_A_ROUND = 0.1


def density_edges(points: Points, clusters: int) -> Edges:
    """Clusters whose number is proportional to density^(1/3) everywhere: best in the limit of many clusters.

    The density is that of a histogram, whose bins have equal widths or equally many points, whichever is finer, and
    grow from single points at both ends; a bin gets no more clusters than it has points.

    Source: Panter & Dite 1951, "Quantization distortion in pulse-count modulation with nonuniform spacing of levels",
    https://doi.org/10.1109/JRPROC.1951.230419.
    """
    values, count = points.values, len(points)
    begins = np.zeros(count + 1, dtype=bool)
    begins[np.linspace(0, count, _BINS).astype(np.int64)] = True
    begins[np.searchsorted(values, np.linspace(values[0], values[-1], _BINS))] = True
    tail = np.geomspace(1, count, _TAIL).astype(np.int64)
    begins[tail] = begins[count - tail] = True
    bins = np.flatnonzero(begins)
    widths = values[np.minimum(bins[1:], count - 1)] - values[bins[:-1]]
    shares = _filled(np.cbrt(np.diff(points.weights[bins]) * widths**2), np.diff(bins).astype(float), clusters)
    sums = np.concatenate([[0.0], np.cumsum(shares)])
    between = np.interp(np.arange(1, clusters) * (sums[-1] / clusters), sums, bins)
    return apart(np.concatenate([[0], between.astype(np.int64), [count]]))


def coarse_edges(points: Points, clusters: int, bins: int = 256) -> Edges:
    """The best clusters that can be put together from so many bins, which are small where many clusters are wanted."""
    marks = density_edges(points, bins)
    binned = replace(
        points,
        values=points.means(marks),
        mass=np.diff(points.weights[marks]),
        weights=points.weights[marks],
        sums=points.sums[marks],
    )
    return marks[exact_edges(binned, clusters)]


def _filled(wanted: Floats, capacity: Floats, total: int) -> Floats:
    """min(capacity, level * wanted), with the level at which they add up to `total`."""
    wanted = wanted / wanted.max() + 1e-9
    low, high = 0.0, float((capacity / wanted).max())
    for _ in range(_HALVINGS):
        level = (low + high) / 2
        if np.minimum(capacity, level * wanted).sum() < total:
            low = level
        else:
            high = level
    return np.minimum(capacity, high * wanted)


def improved(points: Points, edges: Edges) -> Edges:
    """Move all edges at once to the best places among some near each, until that helps no more.

    The places lie around an edge at equal distances in points, at first a quarter of the smaller cluster beside it,
    then ever smaller parts, down to one point. Which combination of them is best is found exactly, by dynamic
    programming over the edges: k (2 h + 1)^2 steps for h places on each side, more where there are few clusters, or
    clusters of few points, whose errors are rugged. The error never grows.
    """
    clusters = len(edges) - 1
    if clusters == 1:
        return edges
    half = max(min(10, 768 * clusters // len(points)), min(24, math.isqrt(9_000 // clusters)), 6)
    error = points.error(edges)
    while True:
        before, part, finest = error, 4, False
        while not finest:
            edges, finest = _settled(points, edges, half, part)
            part *= 8
        error = points.error(edges)
        if error >= before * (1 - _WORTH_A_ROUND):
            return edges


def _settled(points: Points, edges: Edges, half: int, part: int) -> tuple[Edges, bool]:
    """Edges that moves by so small a part of a cluster make hardly better, and whether all moved by single points."""
    error, strides = points.error(edges), np.ones(1, dtype=np.int64)
    for _ in range(_MOST_STEPS):
        sizes = np.diff(edges)
        strides = np.maximum(1, np.minimum(sizes[:-1], sizes[1:]) // part)
        moved = _moved(points, edges, strides, half)
        before, now = error, points.error(moved)
        if now < error:
            edges, error = moved, now
        if now >= before * (1 - _WORTH_A_STEP):
            break
    return edges, bool(strides.max() == 1)


def _moved(points: Points, edges: Edges, strides: Edges, half: int) -> Edges:
    """The best edges among `half` places on each side of every edge, `strides` points apart."""
    places = np.repeat(edges[:, None], 2 * half + 1, axis=1)
    places[1:-1] += strides[:, None] * np.arange(-half, half + 1)
    np.clip(places, 0, len(points), out=places)
    weights, sums = points.weights[places], points.sums[places]
    # What a cluster from place a (axis 1) to place b (axis 2) spares: error = squares - the sum of sums^2 / weight.
    mass = weights[1:, None, :] - weights[:-1, :, None]
    spared = sums[1:, None, :] - sums[:-1, :, None]
    spared *= spared
    with np.errstate(divide="ignore", invalid="ignore"):
        spared /= mass
    spared[mass <= 0] = -np.inf
    best, total = [spared[0, half, :, None]], np.empty_like(spared[0])
    for one in spared[1:]:
        np.add(one, best[-1], out=total)
        best.append(np.maximum.reduce(total, axis=0)[:, None])
    moved, at = edges.copy(), half
    for j in range(len(spared) - 1, 0, -1):
        at = int((spared[j, :, at] + best[j - 1][:, 0]).argmax())
        moved[j] = places[j, at]
    return moved
