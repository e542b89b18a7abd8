"""The rigged lottery."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsewood.dynamics.base import Moment
from sparsewood.dynamics.exchange import Exchange, exchange

__all__ = ["RigL"]


@dataclass(frozen=True)
class RigL(Exchange):
    """Sparse from the first step to the last: drop the smallest |w| of each layer, grow where the gradient is largest.

        share dropped at step t:  f(t) = drop / 2 (1 + cos(pi t / T)),    T = the step where updates stop
        grown:                    the largest |dL/dw| among the weights that are not kept

    The first masks are random, and every layer keeps at every step as many weights as `allocation` gives it. New
    weights begin at 0 and without memory in the optimizer. As in the paper what was just dropped may grow again (its
    |gradient| decides); it then stays as it was. Gradients are those of the step just done, one batch, at the masked
    weights. (The paper puts the exchange in place of a step; here no step is left out.)

    Source: Evci et al. 2020, "Rigging the Lottery: Making All Tickets Winners", https://arxiv.org/abs/1911.11134.

    >>> RigL(0.9, every=10).share(0, 1000), round(RigL(0.9).share(375, 1000), 4), RigL(0.9).share(750, 1000)
    (0.3, 0.15, 0.0)
    """

    reads_gradients: ClassVar[bool] = True

    def share(self, step: int, steps: int) -> float:
        """The share of kept weights that is exchanged after `step` of `steps` steps."""
        return self.drop / 2 * (1 + math.cos(math.pi * min(1.0, step / (self.stop * steps))))

    def update(self, moment: Moment) -> dict[str, Tensor]:
        gradients = moment.gradients
        return exchange(moment, self.share(moment.step, moment.steps), lambda name: gradients[name].abs())
