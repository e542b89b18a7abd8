"""What is left of a trace: enough to explain it, to count what its units cost, and to rewrite its sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsewood.structure.labels import Reason, Split
from sparsewood.structure.log import Cost, Event, Span, Step
from sparsewood.structure.split import Side

__all__ = ["FrozenBy", "Record"]


class FrozenBy(Mapping[int, tuple[int, ...]]):
    """For every frozen component, the numbers of the reasons that froze it, in order.

    >>> why = FrozenBy.of([(np.array([5, 7]), 0), (np.array([7]), 2)])
    >>> why[7], why.get(6), list(why)
    ((0, 2), None, [5, 7])
    """

    def __init__(self, components: np.ndarray, reasons: np.ndarray) -> None:
        self.components, self.reasons = components, reasons

    @classmethod
    def of(cls, frozen: Sequence[tuple[np.ndarray, int]]) -> FrozenBy:
        """From pairs of components and the number of a reason."""
        if not frozen:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))
        count = max(number for _, number in frozen) + 1
        keys = np.unique(np.concatenate([components * count + number for components, number in frozen]))
        return cls(keys // count, keys % count)

    def __getitem__(self, component: int) -> tuple[int, ...]:
        start, end = np.searchsorted(self.components, [component, component + 1])
        if start == end:
            raise KeyError(component)
        return tuple(self.reasons[start:end].tolist())

    def __iter__(self) -> Iterator[int]:
        return iter(np.unique(self.components).tolist())

    def __len__(self) -> int:
        return len(np.unique(self.components))

    def first(self, count: int) -> np.ndarray:
        """For each of `count` components the first reason, -1 where there is none."""
        first = np.full(count, -1)
        first[self.components[::-1]] = self.reasons[::-1]
        return first


@dataclass(frozen=True, eq=False)
class Record:
    """`component[label]` is the unit-to-be of a label; `group_of` and `unit_of` say where a component ended.

    `group_of[component]` is the index of its group in `Structure.groups`, -1 if it owns no parameter; `unit_of` its
    unit there. `reasons_of` gives the reasons that froze a component. `edges` are the pairs of labels that each step
    united, `steps[number]` that step; `inexact` the rows whose removal differs from zeroing, how, and at which step.
    `in_training` says whether train mode was followed, too.
    """

    component: np.ndarray
    group_of: np.ndarray
    unit_of: np.ndarray
    reasons: tuple[Reason, ...]
    reasons_of: FrozenBy
    edges: tuple[tuple[np.ndarray, np.ndarray, int], ...]
    steps: tuple[Step, ...]
    events: tuple[Event, ...]
    costs: tuple[Cost, ...]
    spans: tuple[Span, ...]
    splits: tuple[tuple[Split, Side], ...]
    sizes: tuple[Any, ...]
    parameters: frozenset[str]
    fallback: str = ""
    training_error: str = ""
    in_training: bool = False
    branches: tuple[str, ...] = ()
    inexact: tuple[tuple[np.ndarray, str, int], ...] = ()
