"""Diagonal Fisher information of units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from sparsewood.unit_criteria.base import SiteCriterion
from sparsewood.units.kinds import SquaredFirstOrder, UnitStatistic


@dataclass(frozen=True)
class Fisher(SiteCriterion):
    """score_j = 1/2 mean over examples of t_nj^2, t_nj = sum over places of a_j g_j.

    The second-order change of the loss when unit j is removed, with the empirical Fisher information in place of the
    Hessian, and the gradient of the mean loss taken to be 0, as at the end of a training.

    Source: Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning",
    https://arxiv.org/abs/1801.05787.

    >>> import torch
    >>> Fisher().scores({"squared first order, sum over space": torch.tensor([4.0, 2.0])}, samples=2)
    tensor([1.0000, 0.5000])
    """

    combine: ClassVar[Literal["mean", "sum", "max"]] = "sum"
    reads_loss: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[UnitStatistic, ...]:
        return (SquaredFirstOrder("sum"),)

    def scores(self, found: Mapping[str, Tensor], samples: int) -> Tensor:
        return found[SquaredFirstOrder("sum").kind] / (2 * samples)
