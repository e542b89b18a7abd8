"""Filter pruning via geometric median."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparsewood.parameters import entries, is_weight
from sparsewood.statistics import Loss
from sparsewood.structure import Structure
from sparsewood.unit_criteria.base import UnitCriterion

__all__ = ["GeometricMedian"]

CHUNK = 1 << 23
"""Distances that are held at a time."""
SAME = 1e-13
"""Squared distances up to this share of the squared norms are rounding: the filters are the same."""


@dataclass(frozen=True)
class GeometricMedian(UnitCriterion):
    """score_j = sum over the other filters k of the same weight of ||w_j - w_k||_2 (FPGM), over the mean of these sums.

    A filter near the geometric median of all filters can be replaced by the others, and goes first. Units that several
    weights make have the mean of their scores. Needs no data.

    Source: He et al. 2019, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration",
    https://arxiv.org/abs/1811.00250.

    >>> net = nn.Sequential(nn.Linear(1, 3, bias=False), nn.ReLU(), nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[0.0], [1.0], [3.0]]))
    >>> from sparsewood import trace
    >>> structure = trace(net, torch.ones(1, 1))
    >>> GeometricMedian()(net, structure, data=None, loss=None, generator=torch.Generator())["0"] * 4
    tensor([4., 3., 5.], dtype=torch.float64)
    """

    reads_data: ClassVar[bool] = False

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
        sums: dict[tuple[str, int], Tensor] = {}
        found: dict[str, Tensor] = {}
        for group in structure.prunable:
            scores = []
            for one in group.slices:
                if one.role != "in" and one.param in weights:
                    place = (one.param, one.axis)
                    if place not in sums:
                        sums[place] = _distances(weights[one.param].movedim(one.axis, 0).flatten(1))
                    scores.append(_of_units(sums[place], torch.from_numpy(one.owner), group.units))
            if scores:
                found[group.name] = torch.stack(scores).mean(0)
        return found


def _distances(filters: Tensor) -> Tensor:
    """float64[n] of filters [n, size]: the sum of the distances of each one to all."""
    filters = filters.double()
    # Without their mean the filters are as far apart, and less is lost to cancellation.
    centered = filters - filters.mean(0)
    squares = centered.square().sum(1)
    noise = SAME * (squares + filters.square().sum(1))
    found = []
    for rows in torch.arange(len(filters), device=filters.device).split(max(1, CHUNK // max(len(filters), 1))):
        squared = squares[rows, None] + squares - 2 * centered[rows] @ centered.T
        same = squared <= noise[rows, None] + noise
        found.append(squared.masked_fill(same, 0.0).sqrt().sum(1))
    return torch.cat(found).cpu()


def _of_units(sums: Tensor, owner: Tensor, units: int) -> Tensor:
    """float64[units]: those of each unit's filters together, over the mean of all units."""
    here = owner >= 0
    total = torch.zeros(units, dtype=torch.float64).index_add_(0, owner[here], sums[here])
    mean = total.mean()
    return total / mean if mean > 0 else total
