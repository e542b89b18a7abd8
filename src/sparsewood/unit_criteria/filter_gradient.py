"""Weight times gradient, summed over a unit before the absolute value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparsewood.parameters import entries, is_weight
from sparsewood.statistics import Gradient, Loss, collect
from sparsewood.structure import Structure
from sparsewood.unit_criteria.base import UnitCriterion

__all__ = ["FilterGradient"]


@dataclass(frozen=True)
class FilterGradient(UnitCriterion):
    """score_j = |sum over the weights that make unit j of w g|, g the gradient of the mean loss.

    The first-order change of the loss, up to its sign, when the filter of the unit is set to 0. Ranking by the signed
    sum would remove first what the loss needs most.

    Source: the gradient-ranked filter pruner of Distiller (Zmora et al. 2019, https://arxiv.org/abs/1910.12232), with
    the sign mended; Molchanov et al. 2017, https://arxiv.org/abs/1611.06440.

    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [-3.0]]))
    >>> _ = net[1].weight.data.fill_(1.0)
    >>> from sparsewood import trace
    >>> x = torch.ones(1, 1)
    >>> FilterGradient()(net, trace(net, x), data=[(x, None)], loss=lambda y, _: y.mean(), generator=torch.Generator())
    {'0': tensor([1., 3.], dtype=torch.float64)}
    """

    reads_loss: ClassVar[bool] = True

    def __call__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        data: Iterable[Any] | None,
        loss: Loss | None,
        generator: torch.Generator,  # noqa: ARG002 - nothing is drawn
    ) -> dict[str, Tensor]:
        self.require(data, loss)
        assert data is not None
        weights = {entry.name: entry.parameter.detach() for entry in entries(model) if is_weight(entry)}
        found = collect(model, data, [Gradient()], loss, names=list(weights))
        products = {n: w.double() * found.get(Gradient().kind, n).double() / found.samples for n, w in weights.items()}
        return {name: total.abs() for name, total in structure.to_units(products, part="producers").items()}
