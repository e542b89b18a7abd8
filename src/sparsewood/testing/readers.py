"""What reads units without weights, and which slices a mask sets to 0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from sparsewood.structure import Group, Slice
from sparsewood.structure.log import Step
from sparsewood.structure.record import Record

__all__ = ["parameter_slices", "readers_without_weights"]


def parameter_slices(group: Group, record: Record) -> list[Slice]:
    """The slices that a mask sets to 0: those of parameters. Statistics in buffers cannot be anything."""
    return [one for one in group.slices if one.param in record.parameters]


def readers_without_weights(record: Record) -> set[int]:
    """Components that an operation without weights of its own adds up: a norm, a product of two activations."""
    own = _weight_steps(record)
    found: set[int] = set()
    for number, step in enumerate(record.steps):
        sources = [row for source in step.sources for row in record.steps[source].rows]
        weights = _components(record, [row for axes in step.weights for row in axes.rows])
        before, after = Counter(_listed(record, sources)), Counter(_listed(record, step.rows))
        lost = (before.keys() | weights) - after.keys()
        found |= lost if number in own else lost - weights
        if step.family == "contraction" and number not in own:
            found |= {one for one, count in before.items() if count - after[one] > 1} - weights
            found |= _inner_axes(record, step)
    return found


def _inner_axes(record: Record, step: Step) -> set[int]:
    """What fused attention adds up: the last axis of its operands, whatever axes its result has."""
    if "attention" not in step.op:
        return set()
    return _components(record, [record.steps[source].rows[-1] for source in step.sources if record.steps[source].rows])


def _weight_steps(record: Record) -> set[int]:
    """The steps that compute with weights alone."""
    todo = [axes.step for step in record.steps for axes in step.weights if axes.step >= 0]
    found: set[int] = set()
    while todo:
        number = todo.pop()
        if number not in found:
            found.add(number)
            todo.extend(record.steps[number].sources)
    return found


def _components(record: Record, rows: Iterable[np.ndarray | None]) -> set[int]:
    return set(_listed(record, rows))


def _listed(record: Record, rows: Iterable[np.ndarray | None]) -> list[int]:
    """The components of rows, once for every row that has them."""
    found: list[int] = []
    for row in rows:
        if row is not None:
            found += np.unique(record.component[row[row > 0]]).tolist()
    return found
