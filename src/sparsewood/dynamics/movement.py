"""Movement pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsewood.dynamics.along_curve import AlongCurve
from sparsewood.dynamics.base import Memory, Moment

__all__ = ["Movement"]

SCORE = "score"


@dataclass(frozen=True)
class Movement(AlongCurve):
    """score S = -sum over steps of w dL/dv, v = w mask(S); mask = 1 for the highest scores.

    Weights that move away from zero stay, whatever their size. S is what gradient descent at rate 1 on the scores gives
    when the mask's derivative is taken as 1 (straight-through); its rate does not change the order. A masked weight
    gets no gradient, dL/dw = mask dL/dv, so that only weight decay and what is left of its momentum moves it, while its
    score goes on changing, so that it can come back. At update i of n the sparsity is curve((i + 1) / n), exactly.

    Meant for networks that are trained already: from random weights, movement says little at first.

    Source: Sanh et al. 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", https://arxiv.org/abs/2005.07683.

    >>> from sparsewood.schedules import Cubic
    >>> Movement(Cubic(0.9), every=10).target
    0.9
    """

    masked_learn: ClassVar[Literal["all", "kept"] | None] = "kept"
    observes: ClassVar[bool] = True

    def remembered(self, moment: Moment) -> Memory:
        # Sums over thousands of steps: at least single precision.
        wide = {n: torch.float64 if w.dtype == torch.float64 else torch.float32 for n, w in moment.weights.items()}
        return {SCORE: {name: torch.zeros_like(w, dtype=wide[name]) for name, w in moment.weights.items()}}

    def observe(self, moment: Moment) -> Memory:
        before, weights, gradients = moment.memory[SCORE], moment.weights, moment.gradients
        return {SCORE: {n: before[n] - weights[n].to(before[n]) * gradients[n].to(before[n]) for n in before}}

    def update(self, moment: Moment) -> dict[str, Tensor]:
        return self.highest(moment.memory[SCORE], moment)
