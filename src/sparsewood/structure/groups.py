"""From labels to groups: solve the couplings, decide the rectangles, sort units by footprint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from sparsewood.structure.log import Span
from sparsewood.structure.record import FrozenBy, Record
from sparsewood.structure.solve import solve
from sparsewood.structure.structure import Barrier, Group, Role, Slice, Structure
from sparsewood.structure.taps import with_taps
from sparsewood.structure.tracer import Tracer

__all__ = ["WHOLE", "assemble"]

WHOLE = "without it an axis would be empty"


def assemble(trace: Tracer, *, attention: str = "heads") -> Structure:
    """The structure that a finished trace describes."""
    component, sides = solve(trace, keep_head_size=attention == "heads")
    table = _Table(trace.spans, component)
    trace.freeze(table.whole_axes(), WHOLE)
    reasons_of = FrozenBy.of([(component[row[row > 0]], number) for row, number in trace.frozen])
    first = reasons_of.first(component.max(initial=0) + 1)
    groups, group_of, unit_of = _groups(trace, table, component, first < 0)
    held, barriers = _held(trace, table, first)
    events, costs = trace.complete or ([], [])
    record = Record(
        component=component,
        group_of=group_of,
        unit_of=unit_of,
        reasons=tuple(trace.reasons),
        reasons_of=reasons_of,
        edges=tuple(trace.edges),
        steps=tuple(trace.steps),
        events=tuple(events),
        costs=tuple(costs),
        spans=tuple(trace.spans),
        splits=tuple(zip(trace.splits, sides, strict=True)),
        sizes=tuple(trace.sizes),
        parameters=frozenset(trace.parameters),
        fallback=trace.fallback,
        training_error=trace.training_error,
        in_training=trace.in_training,
        branches=tuple(dict.fromkeys(trace.branches)),
        inexact=tuple(trace.inexact_rows),
    )
    return Structure((*_named(with_taps(groups, record)), *held), dict(trace.shapes), barriers, record)


# ---------------------------------------------------------------- footprints


class _Table:
    """Every position of every axis, in order: its label, its component, its span."""

    def __init__(self, spans: Sequence[Span], component: np.ndarray) -> None:
        sizes = [span.size for span in spans]
        self.spans = spans
        self.sizes = np.array(sizes, np.int64)
        self.ends = np.cumsum(self.sizes)
        self.label = np.concatenate(
            [np.arange(span.start, span.start + span.size) for span in spans] or [np.zeros(0, int)]
        )
        self.component = component[self.label]
        self.span = np.repeat(np.arange(len(spans)), sizes)

    def places(self, number: int) -> slice:
        """Where the positions of a span are."""
        return slice(self.ends[number] - self.sizes[number], self.ends[number])

    def whole_axes(self) -> np.ndarray:
        """The labels of axes that are one unit each."""
        starts = (self.ends - self.sizes)[self.sizes > 0]
        if not len(starts):
            return starts
        one = np.minimum.reduceat(self.component, starts) == np.maximum.reduceat(self.component, starts)
        whole = np.zeros(len(self.spans), bool)
        whole[self.sizes > 0] = one
        return self.label[whole[self.span]]


def _footprints(table: _Table, free: np.ndarray) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Components with equal footprints, in order of their first position, and the spans they have positions in."""
    chosen = np.flatnonzero(free[table.component])
    component = table.component[chosen]
    signature = np.zeros(len(free), np.uint64)
    np.add.at(signature, component, _mixed(np.arange(len(table.spans)))[table.span[chosen]])
    earliest = np.full(len(free), -1)
    earliest[component[::-1]] = chosen[::-1]
    members = np.flatnonzero(earliest >= 0)
    _, group = np.unique(signature[members], return_inverse=True)
    order = np.lexsort((earliest[members], group))
    runs = np.split(members[order], np.flatnonzero(np.diff(group[order])) + 1) if len(members) else []
    spans = _spans_of(table, [int(run[0]) for run in runs])
    for run in sorted(runs, key=lambda run: int(earliest[run[0]])):
        yield run, spans[int(run[0])]


def _spans_of(table: _Table, components: Sequence[int]) -> dict[int, list[int]]:
    """The spans in which each of the components has positions."""
    spans: dict[int, list[int]] = {one: [] for one in components}
    wanted = np.zeros(int(table.component.max(initial=0)) + 1, bool)
    wanted[list(components)] = True
    here = wanted[table.component]
    for key in np.unique(table.component[here] * len(table.spans) + table.span[here]).tolist():
        spans[key // len(table.spans)].append(key % len(table.spans))
    return spans


def _mixed(keys: np.ndarray) -> np.ndarray:
    """Integers scattered over 64 bits (the finaliser of splitmix64), so that sums of them tell sets apart."""
    x = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _groups(
    trace: Tracer, table: _Table, component: np.ndarray, free: np.ndarray
) -> tuple[list[Group], np.ndarray, np.ndarray]:
    """The removable groups, and for every component its group and its unit."""
    group_of, unit_of = np.full(len(free), -1), np.full(len(free), -1)
    found = list(_footprints(table, free))
    for number, (members, _) in enumerate(found):
        group_of[members], unit_of[members] = number, np.arange(len(members))
    here, unit = group_of[table.component], unit_of[table.component]
    consumed, produced = (_slices_with(trace, table, here, rows) for rows in (trace.consumed, trace.produced))
    kinds = _kinds(trace, component)
    groups: list[Group] = []
    for number, (members, footprint) in enumerate(found):
        slices = []
        for index in footprint:
            places, key = table.places(index), number * len(table.spans) + index
            owner = np.where(here[places] == number, unit[places], -1)
            role: Role = "out" if key not in consumed else "both" if key in produced else "in"
            slices.append(Slice(table.spans[index].param, table.spans[index].axis, owner, role))
        inexact = tuple(sorted(kind for kind, flags in kinds.items() if flags[members].any()))
        groups.append(Group("", len(members), tuple(slices), exact=not inexact, inexact=inexact))
    return groups, group_of, unit_of


def _slices_with(trace: Tracer, table: _Table, group: np.ndarray, rows: Sequence[np.ndarray]) -> set[int]:
    """The slices, as group * spans + span, that have a label in one of the rows or in rectangles made of them."""
    marked = np.zeros(trace.count, bool)
    if rows:
        marked[np.concatenate(rows)] = True
    _through_rectangles(trace, marked)
    chosen = marked[table.label] & (group >= 0)
    return set(np.unique(group[chosen] * len(table.spans) + table.span[chosen]).tolist())


def _through_rectangles(trace: Tracer, marked: np.ndarray) -> None:
    """An axis of which a view as a rectangle is marked (as read, as made) is marked itself, and the other way round."""
    for split in trace.splits:
        grid = split.parent.reshape(len(split.left), len(split.right))
        here = marked[split.left][:, None] | marked[split.right][None, :]
        if here.any():
            marked[grid[here]] = True
    for split in reversed(trace.splits):
        if marked[split.parent].any():
            grid = marked[split.parent].reshape(len(split.left), len(split.right))
            marked[split.left] |= grid.any(1)
            marked[split.right] |= grid.any(0)


def _kinds(trace: Tracer, component: np.ndarray) -> Mapping[str, np.ndarray]:
    """For every way in which removing a unit can differ from zeroing it, of which components that holds."""
    kinds: dict[str, np.ndarray] = {}
    read = trace.read_steps()
    for row, kind, step in trace.inexact_rows:
        if 0 <= step < len(read) and not read[step]:
            continue  # nobody reads the result, such as attention weights that are averaged in vain
        flags = kinds.setdefault(kind, np.zeros(int(component.max(initial=0)) + 1, bool))
        flags[component[row[row > 0]]] = True
    return kinds


def _named(groups: Sequence[Group]) -> list[Group]:
    """Groups called after the first weight that makes their units, a second one of that name with a number."""
    names: Counter[str] = Counter()
    named = []
    for group in groups:
        made = next((one.param for one in group.slices if one.role != "in"), group.slices[0].param)
        name = (group.taps[0].producer if group.taps else made).removesuffix(".weight")
        names[name] += 1
        named.append(replace(group, name=name if names[name] == 1 else f"{name}#{names[name]}"))
    return named


# ---------------------------------------------------------------- what stays


def _held(trace: Tracer, table: _Table, first: np.ndarray) -> tuple[list[Group], tuple[Barrier, ...]]:
    """One frozen group for every first reason, and how many entries of parameters each reason keeps."""
    reason = first[table.component]
    counts = _entries_kept(table, reason, len(trace.reasons), trace.parameters)
    barriers = [
        Barrier(one.op, one.module, one.shapes, one.why, int(n)) for one, n in zip(trace.reasons, counts, strict=True)
    ]
    groups = []
    held = reason >= 0
    order = np.argsort(reason[held], kind="stable")
    numbers, starts = np.unique(reason[held][order], return_index=True)
    runs = np.split(np.flatnonzero(held)[order], starts[1:]) if len(numbers) else []
    for number, rows in zip(numbers.tolist(), runs, strict=True):
        spans = [table.spans[index] for index in np.unique(table.span[rows]).tolist()]
        slices = tuple(Slice(span.param, span.axis, np.full(span.size, -1)) for span in spans)
        units = len(np.unique(table.component[rows]))
        groups.append(Group(f"frozen {number}", units, slices, frozen_by=str(barriers[number])))
    shown = sorted((barriers[number] for number in numbers.tolist()), key=lambda one: -one.parameters)
    notes = [Barrier(one.op, one.module, one.shapes, one.why) for one in trace.notes]
    return groups, (*notes, *shown)


def _entries_kept(table: _Table, reason: np.ndarray, reasons: int, parameters: set[str]) -> np.ndarray:
    """For each reason, the entries of parameters that lie in no removable unit and that it keeps.

    Of an entry's axes the one counts whose components are largest: what is coupled with much is what holds it, not the
    places inside a kernel.
    """
    sizes = np.bincount(table.component, minlength=1)
    counts = np.zeros(reasons, np.int64)
    axes: dict[str, list[np.ndarray]] = {}
    for number, span in enumerate(table.spans):
        if span.param in parameters:
            axes.setdefault(span.param, []).append(np.arange(*table.places(number).indices(len(reason))))
    for positions in axes.values():
        held = [rows[reason[rows] >= 0] for rows in positions]
        total = int(np.prod([len(rows) for rows in held], dtype=np.int64))
        if total:
            rows = max(held, key=lambda rows: float(sizes[table.component[rows]].mean()))
            np.add.at(counts, reason[rows], total // len(rows))
    return counts
