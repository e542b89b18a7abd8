"""Magnitude pruning in which every weight goes on learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from sparsewood.dynamics.along_curve import AlongCurve
from sparsewood.dynamics.base import Moment

__all__ = ["StraightThrough"]


@dataclass(frozen=True)
class StraightThrough(AlongCurve):
    """mask = 1 for the largest |w| of the dense weights, at update i of n to the sparsity curve((i + 1) / n).

    Masked weights go on learning by the gradient at the masked network, dL/d(w mask), and come back when they have
    grown. `scope` says which weights compete; the sparsity is exact at every update.

    Source: Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878, for the curve; the straight-through gradient is that
    of Bengio et al. 2013, https://arxiv.org/abs/1308.3432, on masks as in Lin et al. 2020, "Dynamic model pruning with
    feedback", https://arxiv.org/abs/2006.07253.

    >>> from sparsewood.schedules import Cubic
    >>> StraightThrough(Cubic(0.9), every=10).target
    0.9
    """

    masked_learn: ClassVar[Literal["all", "kept"] | None] = "all"

    def update(self, moment: Moment) -> dict[str, Tensor]:
        scores = {name: weight.abs() for name, weight in moment.weights.items()}
        return self.highest(scores, moment)
