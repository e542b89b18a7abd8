"""Magnitude pruning in which every weight goes on learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from sparsewood.allocation import Everywhere, PerLayer
from sparsewood.dynamics.base import Dynamics, Moment
from sparsewood.dynamics.choosing import kept_by, require_scope
from sparsewood.errors import SparsewoodError
from sparsewood.schedules import Cubic, Exponential, Linear

__all__ = ["StraightThrough"]


@dataclass(frozen=True)
class StraightThrough(Dynamics):
    """mask = 1 for the largest |w| of the dense weights, at update i of n to the sparsity curve((i + 1) / n).

    Masked weights go on learning by the gradient at the masked network, dL/d(w mask), and come back when they have
    grown. `scope` says which weights compete; the sparsity is exact at every update.

    Source: Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878, for the curve; the straight-through gradient is that
    of Bengio et al. 2013, https://arxiv.org/abs/1308.3432, on masks as in Lin et al. 2020, "Dynamic model pruning with
    feedback", https://arxiv.org/abs/2006.07253.

    >>> StraightThrough(Cubic(0.9), every=10).target
    0.9
    """

    masked_learn: ClassVar[Literal["all", "kept"] | None] = "all"

    curve: Cubic | Linear | Exponential = Cubic(0.9)
    scope: Everywhere | PerLayer = Everywhere()

    def require(self) -> None:
        if not isinstance(self.curve, Cubic | Linear | Exponential):
            raise SparsewoodError(f"StraightThrough: curve must be Cubic, Linear or Exponential. Got {self.curve!r}.")
        require_scope(self, self.scope)

    @property
    def target(self) -> float | None:
        return self.curve.final

    def update(self, moment: Moment) -> dict[str, Tensor]:
        scores = {name: weight.abs() for name, weight in moment.weights.items()}
        return kept_by(scores, moment.layers, self.curve.at(self.progress(moment)), self.scope)
