"""Sparse evolutionary training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsewood.dynamics.base import Moment
from sparsewood.dynamics.exchange import Exchange, exchange, random_worth

__all__ = ["SET"]


@dataclass(frozen=True)
class SET(Exchange):
    """Sparse from the first step to the last: drop the share `drop` of the smallest |w| of each layer, grow at random.

        kept_l(t) = kept_l(0)          for every layer l, at every step, by `allocation`

    The first masks are random. New weights begin at 0 and without memory in the optimizer. The paper drops the smallest
    positive and the largest negative weights, the same share of each; here they are taken together, by |w|, as in Evci
    et al. 2020.

    Source: Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science", https://arxiv.org/abs/1707.04780.

    >>> SET(0.9, every=10).target
    0.9
    """

    def update(self, moment: Moment) -> dict[str, Tensor]:
        return exchange(moment, self.drop, random_worth(moment))
