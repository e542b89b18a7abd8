"""Numbers on a line, sorted, with sums over any run of them at once; what k-means in one dimension is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsewood.errors import SparsewoodError

__all__ = ["Points", "lloyd", "points_of"]

Floats = NDArray[np.float64]
Edges = NDArray[np.int64]
"""Where clusters begin and end: cluster j holds the points edges[j] ... edges[j + 1] - 1. In one dimension the best
clusters are runs of sorted points, whatever their number."""


@dataclass(frozen=True, eq=False)
class Points:
    """Distinct values in ascending order, the weight of each in `mass`, and sums from the first on.

    `weights[i]` and `sums[i]` are over the points before i, the sums of weight * (value - shift), with the mean for
    `shift`, so that little is lost where sums are subtracted. `squares` is sum weight * (value - shift)^2 over all.
    """

    values: Floats
    mass: Floats
    weights: Floats
    sums: Floats
    squares: float
    shift: float

    def __len__(self) -> int:
        return len(self.values)

    def error(self, edges: Edges) -> float:
        """The sum of weight * (value - mean of its cluster)^2, up to about 1e-15 of `squares`."""
        total = np.diff(self.sums[edges])
        return max(0.0, self.squares - float((total * total / np.diff(self.weights[edges])).sum()))

    def means(self, edges: Edges) -> Floats:
        """The mean of each cluster, from the prefix sums."""
        return np.diff(self.sums[edges]) / np.diff(self.weights[edges]) + self.shift

    def centers(self, edges: Edges) -> Floats:
        """The mean of each cluster, added up anew; that of equal values, or of one, is that very value."""
        means = np.add.reduceat(self.values * self.mass, edges[:-1]) / np.add.reduceat(self.mass, edges[:-1])
        return np.clip(means, self.values[edges[:-1]], self.values[edges[1:] - 1])

    def edges(self, centers: Floats) -> Edges:
        """The clusters of points that are nearest to each center; one that would be empty gets one point."""
        between = np.searchsorted(self.values, (centers[1:] + centers[:-1]) / 2)
        return apart(np.concatenate([[0], between, [len(self)]]))


def points_of(values: NDArray[Any], weights: NDArray[Any] | None = None) -> Points:
    """Sort the values and add them up; equal ones become one point, of the sum of their weights (1 each by default).

    Raises `SparsewoodError` for values that are not finite, weights that are not positive, and no values at all. Where
    sums are beyond float64, `squares` is not finite.

    >>> points = points_of(np.array([3.0, 1.0, 3.0]))
    >>> points.values, points.weights
    (array([1., 3.]), array([0., 1., 3.]))
    """
    values = np.asarray(values).reshape(-1)
    if not values.size:
        raise SparsewoodError("k-means: there are no values.")
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum(dtype=np.float64)
    if not np.isfinite(total) and not np.isfinite(values).all():
        raise SparsewoodError(f"k-means: {int((~np.isfinite(values)).sum())} of {values.size} values are not finite.")
    if weights is None:
        values = np.sort(values)
    else:
        weights = _checked_weights(weights, values.size)
        order = np.argsort(values, kind="stable")
        values, weights = values[order], weights[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    mass = np.diff(starts, append=values.size) if weights is None else np.add.reduceat(weights, starts)
    distinct, mass = values[starts].astype(np.float64), mass.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        shift = float(np.dot(distinct, mass) / mass.sum())
        centered = distinct - shift
        moments = centered * mass
        squares = float(np.dot(moments, centered))
        return Points(distinct, mass, _from_zero(mass), _from_zero(moments), squares, shift)


def apart(edges: Edges) -> Edges:
    """Give each empty cluster one point of the next (at the end, the last ones one each).

    This splits clusters and joins none, so that the error does not grow.

    >>> apart(np.array([0, 2, 2, 5])), apart(np.array([0, 3, 3, 3]))
    (array([0, 2, 3, 5]), array([0, 1, 2, 3]))
    """
    steps = np.arange(len(edges))
    moved = np.maximum.accumulate(edges - steps) + steps
    return np.minimum(moved, edges[-1] - steps[::-1])


def lloyd(points: Points, edges: Edges, iterations: int = 10_000) -> Edges:
    """Lloyd's iteration: centers are the means of their clusters, clusters the points nearest to each center.

    The error never grows. With prefix sums and binary search an iteration of k clusters of n points takes k log n
    steps. Ends when nothing changes. Source: Lloyd 1982, https://doi.org/10.1109/TIT.1982.1056489.

    >>> lloyd(points_of(np.array([0.0, 1.0, 2.0, 10.0])), np.array([0, 1, 4]))
    array([0, 3, 4])
    """
    for _ in range(iterations):
        moved = points.edges(points.means(edges))
        if np.array_equal(moved, edges):
            break
        edges = moved
    return edges


def _from_zero(terms: Floats) -> Floats:
    sums = np.empty(len(terms) + 1)
    sums[0] = 0.0
    np.cumsum(terms, out=sums[1:])
    return sums


def _checked_weights(weights: NDArray[Any], count: int) -> Floats:
    checked = np.asarray(weights, dtype=np.float64).reshape(-1)
    if checked.size != count:
        raise SparsewoodError(f"k-means: {count} values need as many weights. Got {checked.size}.")
    if not np.isfinite(checked).all() or not (checked > 0).all():
        raise SparsewoodError("k-means: weights must be finite and above 0. Leave out values that do not count.")
    return checked
