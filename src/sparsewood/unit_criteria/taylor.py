"""The first-order change of the loss when a unit is removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from sparsewood.unit_criteria.base import SiteCriterion, require_form
from sparsewood.units.kinds import AbsoluteFirstOrder, FirstOrder, Space, UnitStatistic, require_space


@dataclass(frozen=True)
class TaylorRemoval(SiteCriterion):
    """score_j = mean over examples of |t_nj|, t_nj = sum over places of -a_j g_j; with form="signed" of t_nj itself.

    a is the activation, g the gradient of the example's own loss there, so t_nj is the first-order change of that loss
    when unit j becomes 0. space="mean" divides by the number of places, as the papers do; the sum is the change itself,
    comparable between layers. A unit that is seen at several sites has the sum of their scores. In "Mean Replacement
    Pruning" these are abs_rs and rs.

    Source: Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    https://arxiv.org/abs/1611.06440.

    >>> import torch
    >>> found = {"absolute first order, sum over space": torch.tensor([4.0, 1.0])}
    >>> TaylorRemoval().scores(found, samples=2)
    tensor([2.0000, 0.5000])
    """

    form: Literal["absolute", "signed"] = "absolute"
    space: Space = "sum"
    combine: ClassVar[Literal["mean", "sum", "max"]] = "sum"
    reads_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_space(self.space)
        require_form(self.form)

    @property
    def needs(self) -> tuple[UnitStatistic, ...]:
        return ({"absolute": AbsoluteFirstOrder, "signed": FirstOrder}[self.form](self.space),)

    def scores(self, found: Mapping[str, Tensor], samples: int) -> Tensor:
        return found[self.needs[0].kind] / samples
