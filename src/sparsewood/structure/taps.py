"""Where the activations of units can be observed, derived from the graph.

From the operation that makes a unit (a contraction with a weight) the walk goes on through normalisations, additions
and views to the first activation function. What is made of its result before anything reads it is part of the
activation: `x * tanh(softplus(x))`, `relu(x) ** 2`, the product of a gate. It is seen where it first enters or leaves a
module from there on, in the worst case behind an average over places; only where it never does, on the way to it. Where
the unit is read before it meets an activation function, it is seen as it is read, or as late as possible before that.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from sparsewood.structure.labels import Row
from sparsewood.structure.log import Event, Step
from sparsewood.structure.record import Record
from sparsewood.structure.structure import Group, Tap

__all__ = ["with_taps"]

_MAX_WALK = 200
_PRODUCTS = ("aten.mul", "aten.div")
_ONE_BY_ONE = ("activation", "pointwise", "movement")
_RECURRENT = {f"{kind}{cell}" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu") for cell in ("", "_cell")}


def with_taps(groups: Sequence[Group], record: Record) -> list[Group]:
    """The groups with their taps."""
    graph = _Graph(record)
    taps: list[list[Tap]] = [[] for _ in groups]
    for number, step in enumerate(record.steps):
        if step.family != "contraction" or not step.weights:
            continue
        for index in sorted({one for row in step.rows for one in graph.groups_of(row)}):
            producer = graph.producer(step, index)
            tap = producer and graph.tap(number, index, producer)
            if tap:
                taps[index].append(tap)
    return [replace(group, taps=tuple(found)) for group, found in zip(groups, taps, strict=True)]


class _Graph:
    """The steps of a trace, which steps use which, and what enters and leaves modules."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.starts = [span.start for span in record.spans]
        self.users: list[list[int]] = [[] for _ in record.steps]
        for number, step in enumerate(record.steps):
            for source in step.sources:
                self.users[source].append(number)
        self.group = record.group_of[record.component]
        self.group[0] = -1
        self.known: dict[int, frozenset[int]] = {}
        self.events: dict[int, list[Event]] = {}
        for event in record.events:
            self.events.setdefault(event.step, []).append(event)

    def groups_in(self, row: Row) -> np.ndarray:
        """The group of every position of a row, -1 where there is none."""
        if row is None:
            return np.zeros(0, np.int64)
        return self.group[row]

    def groups_of(self, row: Row) -> frozenset[int]:
        """The groups that have positions in a row."""
        if row is None:
            return frozenset()
        found = self.known.get(id(row))
        if found is None:
            found = frozenset(np.unique(self.group[row]).tolist()) - {-1}
            self.known[id(row)] = found
        return found

    def producer(self, step: Step, group: int) -> str | None:
        """The name of the weight of `step` that makes units of `group`."""
        for axes in sorted(step.weights, key=lambda axes: -len(axes.rows)):
            for row in axes.rows:
                if group not in self.groups_of(row):
                    continue
                own = np.flatnonzero(self.groups_in(row) == group)
                if len(own) and row is not None and any(self._same(row[own], out) for out in step.rows):
                    span = self.record.spans[bisect_right(self.starts, int(row[own[0]])) - 1]
                    if span.start <= row[own[0]] < span.start + span.size:
                        return span.param
        return None

    def _same(self, labels: np.ndarray, row: Row) -> bool:
        component = self.record.component
        return row is not None and bool(np.isin(component[labels[:1]], component[row[row > 0]]).any())

    def tap(self, start: int, group: int, producer: str) -> Tap | None:
        """The tap of the units of `group` that step number `start` makes."""
        for number in self._places(start, group):
            for event in self.events.get(number, ()):
                for axis, row in enumerate(event.rows):
                    if row is not None and group in self.groups_of(row):
                        unit = self.record.unit_of[self.record.component[row]]
                        owner = np.where(self.groups_in(row) == group, unit, -1)
                        at = "input" if event.at == "input" else "output"
                        return Tap(producer, event.module, event.call, at, event.index, axis, owner)
        return None

    def _places(self, start: int, group: int) -> Iterator[int]:
        """The steps behind which units that step `start` makes may be seen, best first."""
        way, around, active = self._way(start, group)
        if active:
            last = self._finished(way[-1], around, group) if way[-1] != start else start
            yield last
            yield from self._onward(last, group, _ONE_BY_ONE)
            yield from self._onward(last, group, (*_ONE_BY_ONE, "reduction"))
        yield from reversed(way)

    def _carries(self, number: int, group: int) -> bool:
        return any(group in self.groups_of(row) for row in self.record.steps[number].rows)

    def _way(self, start: int, group: int) -> tuple[list[int], set[int], bool]:
        """The steps from the making of a unit to its activation function, or to where it is read.

        Also all steps that were looked at, and whether there is an activation function.
        """
        if self.record.steps[start].op in _RECURRENT:
            return [start], {start}, True
        before: dict[int, int] = {}
        heap = [(user, start) for user in self.users[start]]
        read_at, reduced = start, set[int]()
        found_reader = active = False
        for _ in range(_MAX_WALK):
            if not heap or active:
                break
            number, source = heapq.heappop(heap)
            if number in before:
                continue
            step = self.record.steps[number]
            if step.family not in (*_ONE_BY_ONE, "normalization", "reduction") or not self._carries(number, group):
                if not found_reader:
                    read_at, found_reader = source, True
                continue
            before[number] = source
            if source in reduced or step.family == "reduction":
                reduced.add(number)
            if step.family == "activation":
                read_at, active = number, True
            for user in self.users[number]:
                heapq.heappush(heap, (user, number))
        way = [read_at]
        while way[-1] != start:
            way.append(before[way[-1]])
        shown = [number for number in reversed(way) if number not in reduced or number == read_at]
        return shown, {start, *before}, active

    def _finished(self, first: int, around: set[int], group: int) -> int:
        """The last step of the activation that begins with the activation function in step `first`.

        Beyond it something else is added, or it is read: by a contraction, a normalisation, a sum. All that was made of
        the function's result has come together there. `around` are steps that the unit went through before.
        """
        known, last = set(around), first
        heap = sorted({user for number in around for user in self.users[number] if user > first})
        waiting = set(self.users[first])
        for _ in range(_MAX_WALK):
            if not waiting:
                break
            number = heapq.heappop(heap)
            if number in known:
                continue
            part = number in waiting
            if self._goes_on(number, group, known):
                known.add(number)
                for user in self.users[number]:
                    heapq.heappush(heap, user)
            elif part:
                break
            if part:
                waiting.remove(number)
                if not waiting and self.record.steps[number].family != "movement":
                    last = number
                waiting.update(self.users[number])
        return last

    def _goes_on(self, number: int, group: int, known: Iterable[int]) -> bool:
        """Whether a step is a part of the expression that made the steps `known`, and nothing that joins it."""
        step = self.record.steps[number]
        if step.family not in _ONE_BY_ONE or not self._carries(number, group):
            return False
        if step.family != "pointwise" or step.op.startswith(_PRODUCTS):
            return True
        return all(source in known or not self._carries(source, group) for source in step.sources)

    def _onward(self, first: int, group: int, families: Sequence[str]) -> Iterator[int]:
        """The steps of some families that units go through from step `first` on, in order."""
        heap, seen = list(self.users[first]), set[int]()
        for _ in range(_MAX_WALK):
            if not heap:
                break
            number = heapq.heappop(heap)
            if number in seen or self.record.steps[number].family not in families or not self._carries(number, group):
                continue
            seen.add(number)
            yield number
            for user in self.users[number]:
                heapq.heappush(heap, user)
