"""Taylor expansion at gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from sparsewood.errors import SparsewoodError
from sparsewood.unit_criteria.base import SiteCriterion
from sparsewood.units.kinds import FirstOrder, SquaredFirstOrder, UnitStatistic

__all__ = ["GateTaylor"]


@dataclass(frozen=True)
class GateTaylor(SiteCriterion):
    """score_j = E over mini-batches of (mean over the batch of t_nj)^2 = m_j^2 + (q_j - m_j^2) / batch.

    t_nj = sum over places of a_j g_j is the derivative of example n's loss by a gate z_j = 1 that multiplies unit j at
    all places, m_j and q_j the means of t_nj and of its square over the data. So this is what squares of the gates'
    gradients average to over mini-batches of `batch` examples, however the data that are read are cut. batch=1 is the
    mean square, in the order of `Fisher`; with large batches the gradient of a trained network, and the score with it,
    vanishes.

    Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", equation 8,
    https://arxiv.org/abs/1906.10771.

    >>> import torch
    >>> found = {"first order, sum over space": torch.tensor([4.0, 0.0])}
    >>> found["squared first order, sum over space"] = torch.tensor([8.0, 18.0])
    >>> GateTaylor(batch=3).scores(found, samples=2)
    tensor([4., 3.])
    """

    batch: int = 32
    combine: ClassVar[Literal["mean", "sum", "max"]] = "sum"
    reads_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.batch, bool) or not isinstance(self.batch, int) or self.batch < 1:
            raise SparsewoodError(f"GateTaylor needs a batch of a whole number of examples >= 1. Got {self.batch!r}.")

    @property
    def needs(self) -> tuple[UnitStatistic, ...]:
        return (FirstOrder("sum"), SquaredFirstOrder("sum"))

    def scores(self, found: Mapping[str, Tensor], samples: int) -> Tensor:
        squared_mean = (found[FirstOrder("sum").kind] / samples).square()
        mean_square = found[SquaredFirstOrder("sum").kind] / samples
        return squared_mean + (mean_square - squared_mean).clamp_min(0) / self.batch
