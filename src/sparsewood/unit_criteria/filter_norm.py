"""Norms of filters, relative to those of their layer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.parameters import entries, is_weight
from sparsewood.statistics import Loss
from sparsewood.structure import Structure
from sparsewood.unit_criteria.base import UnitCriterion

__all__ = ["FilterNorm"]


@dataclass(frozen=True)
class FilterNorm(UnitCriterion):
    """score_j = ||w_j||_p / mean over the units k of the same weight of ||w_k||_p, w_j the filter that makes unit j.

    Norms grow with the size of a filter and the scale of its layer; relative to their weight's mean they compare
    between layers. Units that several weights make have the mean of their scores. Needs no data. Norms of all that
    goes with a unit, its readers included, are what `Magnitude` and `LpNorm` give.

    Source: Li et al. 2016, "Pruning Filters for Efficient ConvNets", https://arxiv.org/abs/1608.08710 (p = 1).

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[0.0, -1.0], [1.0, 2.0]]))
    >>> from sparsewood import trace
    >>> structure = trace(net, torch.ones(1, 2))
    >>> FilterNorm()(net, structure, data=None, loss=None, generator=torch.Generator())
    {'0': tensor([0.5000, 1.5000], dtype=torch.float64)}
    """

    p: float = 1.0
    reads_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.p, bool) or not isinstance(self.p, int | float) or not 0 < self.p < math.inf:
            raise SparsewoodError(f"FilterNorm needs a finite p > 0. Got {self.p!r}.")

    def __call__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        data: Iterable[Any] | None,  # noqa: ARG002 - weights alone count
        loss: Loss | None,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        weights = {entry.name: entry.parameter.detach() for entry in entries(model) if is_weight(entry)}
        found: dict[str, Tensor] = {}
        for group in structure.prunable:
            scores = [
                self._relative(weights[one.param], one.axis, torch.from_numpy(one.owner), group.units)
                for one in group.slices
                if one.role != "in" and one.param in weights
            ]
            if scores:
                found[group.name] = torch.stack(scores).mean(0)
        return found

    def _relative(self, weight: Tensor, axis: int, owner: Tensor, units: int) -> Tensor:
        """float64[units]: the norms of one weight's filters over their mean."""
        powers = weight.movedim(axis, 0).flatten(1).double().abs().pow(self.p).sum(1).cpu()
        here = owner >= 0
        norms = torch.zeros(units, dtype=torch.float64).index_add_(0, owner[here], powers[here]).pow(1 / self.p)
        mean = norms.mean()
        return norms / mean if mean > 0 else norms
