"""Rules whose sparsity goes along a curve: what straight-through and movement pruning share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sparsewood.allocation import Everywhere, PerLayer
from sparsewood.allocation.budgets import Layer
from sparsewood.dynamics.base import Dynamics, Moment
from sparsewood.dynamics.choosing import kept_by, require_curve, require_scope
from sparsewood.errors import SparsewoodError
from sparsewood.schedules import Cubic, Exponential, Linear

__all__ = ["AlongCurve"]


@dataclass(frozen=True)
class AlongCurve(Dynamics):
    """At update i of n the sparsity is curve((i + 1) / n), exactly; `scope` says which weights compete."""

    curve: Cubic | Linear | Exponential = Cubic(0.9)
    scope: Everywhere | PerLayer = Everywhere()

    def require(self) -> None:
        if not isinstance(self.curve, Cubic | Linear | Exponential):
            who = type(self).__name__
            raise SparsewoodError(f"{who}: curve must be Cubic, Linear or Exponential. Got {self.curve!r}.")
        require_scope(self, self.scope)

    def require_layers(self, layers: Sequence[Layer], steps: int) -> None:
        require_curve(self, layers, self.curve, len(self.times(steps)))

    @property
    def target(self) -> float | None:
        return self.curve.final

    def highest(self, scores: Mapping[str, Tensor], moment: Moment) -> dict[str, Tensor]:
        """The masks of this moment: the highest scores stay."""
        return kept_by(scores, moment.layers, self.curve.at(self.progress(moment)), self.scope)
