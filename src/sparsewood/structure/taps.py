"""Where the activations of units can be observed, derived from the graph.

From the operation that makes a unit (a contraction with a weight) the walk goes on through normalisations, additions
and views to the first activation function; the product that a gated activation ends in is part of it. Where the
unit is read before it meets an activation function, it is seen as it is read. What is observed is the last tensor on
that way that enters or leaves a module.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sparsewood.structure.labels import Row
from sparsewood.structure.log import Event, Step
from sparsewood.structure.record import Record
from sparsewood.structure.structure import Group, Tap

__all__ = ["with_taps"]

_MAX_WALK = 200
_PRODUCTS = ("aten.mul", "aten.div")


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
        self.events: dict[int, Event] = {}
        for event in record.events:
            self.events.setdefault(event.step, event)

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
                    return span.param if span.start <= row[own[0]] < span.start + span.size else None
        return None

    def _same(self, labels: np.ndarray, row: Row) -> bool:
        component = self.record.component
        return row is not None and bool(np.isin(component[labels[:1]], component[row[row > 0]]).any())

    def tap(self, start: int, group: int, producer: str) -> Tap | None:
        """The tap of the units of `group` that step number `start` makes."""
        for number in reversed(self._way(start, group)):
            event = self.events.get(number)
            if event is None:
                continue
            for axis, row in enumerate(event.rows):
                if row is not None and group in self.groups_of(row):
                    owner = np.where(self.groups_in(row) == group, self.record.unit_of[self.record.component[row]], -1)
                    at = "input" if event.at == "input" else "output"
                    return Tap(producer, event.module, event.call, at, event.index, axis, owner)
        return None

    def _way(self, start: int, group: int) -> list[int]:
        """The steps from the making of a unit to its activation function, or to where it is read."""
        before: dict[int, int] = {}
        heap = [(user, start) for user in self.users[start]]
        heapq.heapify(heap)
        read_at, reduced = start, set[int]()
        found_reader = False
        for _ in range(_MAX_WALK):
            if not heap:
                break
            number, source = heapq.heappop(heap)
            step = self.record.steps[number]
            if number in before or not any(group in self.groups_of(row) for row in step.rows):
                if number not in before and not found_reader:
                    read_at, found_reader = source, True
                continue
            if step.family not in ("activation", "pointwise", "normalization", "movement", "reduction"):
                if not found_reader:
                    read_at, found_reader = source, True
                continue
            before[number] = source
            if source in reduced or step.family == "reduction":
                reduced.add(number)
            if step.family == "activation":
                read_at = self._gated(number, before)
                break
            for user in self.users[number]:
                heapq.heappush(heap, (user, number))
        way = [read_at]
        while way[-1] != start:
            way.append(before[way[-1]])
        return [number for number in reversed(way) if number not in reduced or number == read_at]

    def _gated(self, number: int, before: dict[int, int]) -> int:
        """Behind an activation function that is only used in a product, that product."""
        while len(self.users[number]) == 1:
            user = self.users[number][0]
            if not self.record.steps[user].op.startswith(_PRODUCTS) or user in before:
                break
            before[user] = number
            number = user
        return number
