"""What a criterion is: a rule that turns one parameter and its statistics into element scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from sparsewood.granularity import Reduction
from sparsewood.parameters import Entry, is_weight
from sparsewood.statistics import Statistic
from sparsewood.types import Statistics


@dataclass(frozen=True)
class Inputs:
    """What a criterion sees of one parameter.

    `weight` is at least float32 and may be all of the parameter, some rows of it, or a flat choice of elements;
    `statistics[kind]` is the mean over examples, broadcastable to `weight`.
    """

    name: str
    weight: Tensor
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator | None = None


class Criterion(ABC):
    """A rule that gives importance scores: higher = keep.

    `__call__` returns one score for each element of `inputs.weight`. For larger granularities the element scores of a
    unit are combined by `reduction`, and `finish(total, size)` turns that into the unit's score.

    `pointwise`: the score of an element depends on nothing but that element of the weight and of the statistics; such
    scores are computed in pieces and never stored. `covers` says which parameters are scored by default.
    """

    pointwise: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, inputs: Inputs) -> Tensor: ...

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """The statistics that `__call__` reads."""
        return ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The kinds that `__call__` finds in `inputs.statistics`."""
        return tuple(statistic.kind for statistic in self.needs)

    def across(self, weights: Mapping[str, Tensor], statistics: Statistics) -> Statistics:  # noqa: ARG002 (ranks do)
        """`statistics` with what takes all chosen parameters together, such as ranks; masked weights are 0."""
        return statistics

    @property
    def reduction(self) -> Reduction:
        """How the element scores of a unit are combined."""
        return "sum"

    def finish(self, total: Tensor, size: int) -> Tensor:  # noqa: ARG002  (criteria that are means or norms use size)
        """The score of units whose `size` element scores were combined to `total`."""
        return total

    def covers(self, entry: Entry) -> bool:
        """Whether this criterion scores a parameter that was not asked for by name."""
        return is_weight(entry)
