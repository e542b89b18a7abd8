"""k-means in one dimension by dynamic programming: the best clusters there are."""

from __future__ import annotations

import numpy as np

from sparsewood.quantization.points import Edges, Floats, Points

__all__ = ["dense_edges", "divided_edges", "exact_edges"]

_DENSE = 320


def exact_edges(points: Points, clusters: int) -> Edges:
    """The clusters of least error among all.

        E_j(i) = min over m < i of E_{j-1}(m) + error of the points m ... i - 1 as one cluster

    E_j(i) is the least error of the first i points in j clusters.

    Source: Wang & Song 2011, "Ckmeans.1d.dp: optimal k-means clustering in one dimension by dynamic programming",
    https://doi.org/10.32614/RJ-2011-015.

    >>> from sparsewood.quantization.points import points_of
    >>> exact_edges(points_of(np.array([0.0, 1.0, 5.0, 6.0, 20.0])), 3)
    array([0, 2, 4, 5])
    """
    return (dense_edges if len(points) <= _DENSE else divided_edges)(points, clusters)


def dense_edges(points: Points, clusters: int) -> Edges:
    """`exact_edges` in k n^2 steps, each of them short: the quickest way for few points."""
    count = len(points)
    mass = points.weights - points.weights[:, None]
    spared = points.sums - points.sums[:, None]
    spared *= spared
    spared /= np.where(mass > 0, mass, 1.0)
    spared[mass <= 0] = -np.inf
    # error = squares - what clusters spare, of which the largest sum is sought.
    best, total = [spared[0, :, None]], np.empty_like(spared)
    for _ in range(clusters - 2):
        np.add(spared, best[-1], out=total)
        best.append(np.maximum.reduce(total, axis=0)[:, None])
    edges = np.zeros(clusters + 1, dtype=np.int64)
    edges[clusters] = count
    for j in range(clusters - 1, 0, -1):
        edges[j] = (spared[:, edges[j + 1]] + best[j - 1][:, 0]).argmax()
    return edges


def divided_edges(points: Points, clusters: int) -> Edges:
    """`exact_edges` in k n log n steps.

    The best m does not fall as i grows, so that rows in between need only look between the answers of their neighbours,
    a whole level of neighbours at once. Memory is 4 k n bytes. Source: Wu 1991, "Optimal quantization by matrix
    searching", https://doi.org/10.1016/0196-6774(91)90039-2.
    """
    count = len(points)
    best = np.full(count + 1, np.inf)
    best[1:] = -(points.sums[1:] ** 2) / points.weights[1:]
    cuts = np.zeros((clusters + 1, count + 1), dtype=np.int32)
    for j in range(2, clusters + 1):
        best = _with_one_more(points, best, cuts[j], j, count - (clusters - j))
    edges = np.zeros(clusters + 1, dtype=np.int64)
    edges[clusters] = count
    for j in range(clusters, 1, -1):
        edges[j - 1] = cuts[j, edges[j]]
    return edges


def _with_one_more(points: Points, before: Floats, cuts: np.ndarray, first: int, last: int) -> Floats:
    """E_j from E_{j-1} for i = first ... last, less the squares that all have in common; the best m go into `cuts`."""
    best = np.full_like(before, np.inf)
    # Beyond the rows, and so beyond what any answer may be.
    cuts[first - 1], end = first - 1, last - 1
    step = 1 << (last - first + 1).bit_length()
    while step > 1:
        rows = np.arange(first - 1 + step // 2, last + 1, step)
        low = cuts[rows - step // 2]
        high = np.full(len(rows), end)
        known = rows + step // 2 <= last
        high[known] = cuts[rows[known] + step // 2]
        high = np.minimum(high, rows - 1)
        low = np.minimum(low, high)
        best[rows], cuts[rows] = _least(points, before, rows, low, high)
        step //= 2
    return best


def _least(points: Points, before: Floats, rows: Edges, low: Edges, high: Edges) -> tuple[Floats, Edges]:
    """For each row i the least of before[m] - (sum of m ... i)^2 / weight over m = low ... high, and where it is."""
    lengths = high - low + 1
    starts = np.cumsum(lengths) - lengths
    m = np.arange(int(lengths.sum())) - np.repeat(starts - low, lengths)
    totals = np.repeat(points.sums[rows], lengths) - points.sums[m]
    values = before[m] - totals * totals / (np.repeat(points.weights[rows], lengths) - points.weights[m])
    least = np.minimum.reduceat(values, starts)
    hits = np.flatnonzero(values == np.repeat(least, lengths))
    return least, m[hits[np.searchsorted(hits, starts)]]
