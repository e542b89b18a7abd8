"""k-means in one dimension: clusters are taken from where they spare little and given to where they spare more."""

from __future__ import annotations

import numpy as np

from sparsewood.quantization.points import Edges, Floats, Points
from sparsewood.quantization.windows import improved

__all__ = ["exchanged"]

_MOST_ROUNDS = 50
_WORTH_A_ROUND = 1e-3


def exchanged(points: Points, edges: Edges) -> Edges:
    """Join neighbours and cut other clusters in two as long as that helps, then move the edges by `improved`.

        pays if   what the best cut of one cluster spares  >  what joining two others costs

    `improved` alone moves an edge no further than to its neighbours: where values lie in clumps it cannot bring a
    second edge within one clump to one that lacks an edge. The number of clusters stays, and the error never grows.
    A round takes n steps, and all exchanges that do not touch each other are made in it.

    >>> from sparsewood.quantization.points import points_of
    >>> points = points_of(np.array([0.0, 1.0, 2.0, 50.0, 90.0, 91.0]))
    >>> exchanged(points, np.array([0, 1, 3, 6]))
    array([0, 3, 4, 6])
    """
    for _ in range(_MOST_ROUNDS):
        moved = _while_it_pays(points, edges)
        if moved is edges:
            break
        edges, before = improved(points, moved), points.error(edges)
        if points.error(edges) >= before * (1 - _WORTH_A_ROUND):
            break
    return edges


def _while_it_pays(points: Points, edges: Edges) -> Edges:
    """The same edges, not a copy, where no exchange pays."""
    error = points.error(edges)
    for _ in range(_MOST_ROUNDS):
        moved = _once(points, edges)
        before, error = error, points.error(moved)
        if error >= before * (1 - _WORTH_A_ROUND):
            break
        edges = moved
    return edges


def _once(points: Points, edges: Edges) -> Edges:
    """The cheapest joins with the best cuts, pair by pair; a join costs less than those beside it, so none touch."""
    spared, places = _cuts(points, edges)
    costs = _joins(points, edges)
    around = np.concatenate([[np.inf], costs, [np.inf]])
    joins = np.flatnonzero((costs < around[:-2]) & (costs <= around[2:]))
    joins = joins[np.argsort(costs[joins])]
    cuts = np.argsort(-spared)[: len(joins)]
    pays = spared[cuts] > costs[joins]
    joins, cuts = joins[pays], cuts[pays]
    apart = ~np.isin(cuts, np.concatenate([joins, joins + 1]))
    return np.sort(np.concatenate([np.delete(edges, joins[apart] + 1), places[cuts[apart]]]))


def _cuts(points: Points, edges: Edges) -> tuple[Floats, Edges]:
    """What the best cut in two of each cluster spares (-inf where it has one point), and where it is.

    A cut at i spares   (S_i - W_i mean)^2 W / (W_i (W - W_i))   of the sums S and weights W from the cluster's begin.
    """
    sizes = np.diff(edges)
    begins = np.repeat(edges[:-1], sizes)
    whole = np.repeat(np.diff(points.weights[edges]), sizes)
    before = points.weights[:-1] - points.weights[begins]
    means = np.repeat(np.diff(points.sums[edges]) / np.diff(points.weights[edges]), sizes)
    spared = points.sums[:-1] - points.sums[begins] - before * means
    spared *= spared
    after = whole - before
    spared *= whole / np.where((before > 0) & (after > 0), before * after, 1.0)
    spared[(before <= 0) | (after <= 0)] = -np.inf
    best = np.maximum.reduceat(spared, edges[:-1])
    hits = np.flatnonzero(spared == np.repeat(best, sizes))
    return best, hits[np.searchsorted(hits, edges[:-1])]


def _joins(points: Points, edges: Edges) -> Floats:
    """What it costs to make one of cluster j and the next:   (difference of means)^2 W_j W_j+1 / (W_j + W_j+1)."""
    weights, means = np.diff(points.weights[edges]), points.means(edges)
    return np.diff(means) ** 2 * weights[1:] * weights[:-1] / (weights[1:] + weights[:-1])
