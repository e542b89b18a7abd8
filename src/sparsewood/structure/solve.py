"""From couplings to components: sizes are tied, rectangles decided, and what does not fit is frozen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sparsewood.structure.expressions import Attribute, Size
from sparsewood.structure.labels import Labels, Row, Split
from sparsewood.structure.record import FrozenBy
from sparsewood.structure.sizes import SizeUse, conflicts
from sparsewood.structure.split import Side, decide
from sparsewood.structure.tracer import Tracer

__all__ = ["solve"]

_UNUSED = "the forward does not use it"
_OTHER_SIDE = "it is one side of a rectangle (blocks x places in a block) of which the other side shrinks"
_NO_SIDE = "it is a rectangle (blocks x places in a block) of which neither side can shrink"
_NOBODYS = "some of the positions that it holds are of no parameter"
_SIZE = "its size is that of an axis that no parameter owns"

Edge = tuple[np.ndarray, np.ndarray, int]


def solve(trace: Tracer, *, keep_head_size: bool) -> tuple[np.ndarray, list[Side]]:
    """The component of every label, and for every rectangle the side that shrinks; what has to stay is frozen."""
    _freeze_unused(trace)
    if trace.escaped:
        trace.freeze(np.arange(1, trace.count), trace.escaped)
    component = _tie_sizes(trace, _components(trace.count, trace.edges))
    if not trace.splits:
        _freeze_conflicts(trace, component)
        return component, []
    known = len(trace.edges)
    sides = _decide_rectangles(trace, component, keep_head_size=keep_head_size)
    component = _with_more(component, trace.edges[known:])
    _freeze_conflicts(trace, component)
    return component, sides


def _with_more(component: np.ndarray, edges: Sequence[Edge]) -> np.ndarray:
    """Components when more labels are coupled."""
    between = [(component[first], component[second], step) for first, second, step in edges]
    return _components(component.max(initial=0) + 1, between)[component] if edges else component


def _tie_sizes(trace: Tracer, component: np.ndarray) -> np.ndarray:
    """Couple axes that must stay equally long: one has the size of the other, or both that of one attribute.

    Which position goes with which is free to choose; the first goes with the first. Axes of the same units, in
    whatever order, are equally long anyhow.
    """
    known = len(trace.edges)
    for step, row, other in _equally_long(trace):
        if not np.array_equal(np.sort(component[other]), np.sort(component[row])):
            trace.op = step
            trace.unite(row, other, why=_SIZE)
    return _with_more(component, trace.edges[known:])


def _equally_long(trace: Tracer) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Pairs of different rows of which one has the size of the other, and the step that says so."""
    pairs: list[tuple[int, np.ndarray, np.ndarray]] = []
    first: dict[Attribute, Row] = {}
    for use in trace.sizes:
        if not isinstance(use, SizeUse) or use.row is None:
            continue
        if isinstance(use.expression, Size):
            other: Row = use.expression.row
        elif isinstance(use.expression, Attribute):
            other = first.setdefault(use.expression, use.row)
        else:
            continue
        if other is None or other is use.row or len(other) != len(use.row):
            continue
        if not np.array_equal(other, use.row):
            pairs.append((use.step, use.row, other))
    return pairs


def _components(count: int, edges: Sequence[Edge]) -> np.ndarray:
    """The component of every label."""
    if not edges:
        return np.arange(count)
    first = np.concatenate([edge[0] for edge in edges])
    second = np.concatenate([edge[1] for edge in edges])
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _flags(component: np.ndarray, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Which components have a label in one of the rows."""
    flags = np.zeros(component.max(initial=0) + 1, bool)
    if rows:
        labels = np.concatenate(rows)
        flags[component[labels[labels > 0]]] = True
    return flags


def _freeze_unused(trace: Tracer) -> None:
    for span in trace.spans:
        if span.param not in trace.used and span.size:
            trace.freeze(np.arange(span.start, span.start + span.size), _UNUSED)


def _decide_rectangles(trace: Tracer, component: np.ndarray, *, keep_head_size: bool) -> list[Side]:
    """Choose the side of every rectangle that shrinks, couple its parent with it, and freeze the other side."""
    frozen = _flags(component, [row for row, _ in trace.frozen])
    frozen[component[0]] = True  # label 0 is what nobody owns
    heads = _flags(component, trace.head_rows)
    why = FrozenBy.of([(component[row[row > 0]], number) for row, number in trace.frozen])
    sides = decide(trace.splits, component, frozen, heads, keep_head_size=keep_head_size)
    for split, side in zip(trace.splits, sides, strict=True):
        sides_why = [_first(trace, why, component[row]) for row in (split.left, split.right)] if side == "none" else ()
        _carry_out(trace, split, side, sides_why)
    return sides


def _first(trace: Labels, why: FrozenBy, components: np.ndarray) -> str:
    """The first reason that holds one of the components."""
    numbers = [why[one][0] for one in np.unique(components).tolist() if one in why]
    return trace.reasons[min(numbers)].why if numbers else "it follows from another rectangle"


def _carry_out(trace: Labels, split: Split, side: Side, why: Sequence[str]) -> None:
    trace.op = split.op
    grid = split.parent.reshape(len(split.left), len(split.right))
    if side == "none":
        for row in (split.parent, split.left, split.right):
            trace.freeze(row[row > 0], f"{_NO_SIDE}: for the blocks, {why[0]}; for the places, {why[1]}")
        return
    shrinks, stays = (split.left, split.right) if side == "left" else (split.right, split.left)
    spread = np.broadcast_to(shrinks[:, None] if side == "left" else shrinks[None, :], grid.shape)
    owned = (split.left[:, None] > 0) & (split.right[None, :] > 0)
    trace.freeze(spread[owned & (grid == 0)], _NOBODYS)
    owned &= grid > 0
    trace.edges.append((grid[owned], spread[owned], split.op))
    trace.freeze(stays[stays > 0], _OTHER_SIDE)


def _freeze_conflicts(trace: Tracer, component: np.ndarray) -> None:
    """Freeze the units without which some size in the forward would be wrong."""
    if not trace.sizes:
        return
    frozen = _flags(component, [row for row, _ in trace.frozen])
    frozen[component[0]] = True
    while found := conflicts(trace.sizes, component, frozen):
        for row, why in found:
            trace.freeze(row, why)
            frozen[component[row]] = True
