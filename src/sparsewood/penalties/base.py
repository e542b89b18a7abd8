"""What a penalty is: a function of weights that a training adds to its loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from sparsewood.errors import SparsewoodError
from sparsewood.parameters import Entry
from sparsewood.penalties.unit_map import UnitMap

__all__ = ["Penalty", "Weights", "require_number"]


@dataclass(frozen=True, eq=False)
class Weights:
    """What a penalty sees: the parameters that it covers by name, and the step of training, counted from 0.

    `units` says which elements are which unit's, for penalties that are `grouped`; `decided` is what the penalty
    decided before the first step.
    """

    tensors: Mapping[str, Tensor]
    units: UnitMap | None = None
    step: int = 0
    decided: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def map(self) -> UnitMap:
        """The units; raises `SparsewoodError` without them."""
        if self.units is None:
            raise SparsewoodError(
                "This penalty is of units of the network's structure: pass units=UnitMap.of(structure, tensors)."
            )
        return self.units


class Penalty(ABC):
    """A function of weights that a training adds to its loss. Pure.

    `value` is that function, differentiable; calling the penalty gives its gradient in closed form, by parameter name.
    What depends on the weights but is not to be followed by the gradient is decided once, by `decide`, or is constant
    within a step; the formula says so. `grouped` penalties need the network's structure.
    """

    grouped: ClassVar[bool] = False

    @abstractmethod
    def value(self, weights: Weights) -> Tensor: ...

    @abstractmethod
    def __call__(self, weights: Weights) -> dict[str, Tensor]: ...

    def covers(self, entry: Entry) -> bool:  # noqa: ARG002  (some cover certain layers only)
        """Whether the penalty is of this parameter."""
        return True

    def decide(self, weights: Weights) -> dict[str, Tensor]:  # noqa: ARG002  (some decide nothing)
        """What is decided once, before the first step, and kept with the state of the training."""
        return {}


def require_number(who: object, name: str, value: object, most: float = math.inf) -> None:
    """Raise `SparsewoodError` unless `value` is a finite number from 0 to `most`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most or value == math.inf:
        upper = "" if most == math.inf else f" and <= {most:g}"
        raise SparsewoodError(f"{type(who).__name__}: {name} must be a finite number >= 0{upper}. Got {value!r}.")
