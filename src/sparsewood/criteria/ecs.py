"""Explicit connection sensitivity: large weights and weights with large gradients stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.criteria.base import Criterion, Inputs
from sparsewood.statistics import Gradient, Statistic
from sparsewood.statistics.kinds import Mode, require_mode
from sparsewood.types import Statistics

RANK = "rank of weight or gradient"


@dataclass(frozen=True)
class ECS(Criterion):
    """score = max(rank of |w|, rank of |g|) / N, g the mean gradient of the loss, ranks 0 to N - 1 among all N weights.

    A weight stays if its magnitude or its gradient is among the largest; it goes if both are small. Keeping the best
    kappa weights is keeping |w| >= P(|w|) or |g| >= P(|g|) with the one percentile P at which exactly kappa stay, which
    would else be found by bisection: the same percentile for both keeps between d and 2 d percent. Equal values have
    equal ranks, the lowest of theirs, so that with equal gradients this is magnitude. Ranks are among all parameters
    that are chosen.

    Source: the ECS pruner of the project "Explicit Connection Sensitivity Pruning and Quantization", which has no
    paper; a weight's connection sensitivity is of Lee et al. 2019, https://arxiv.org/abs/1810.02340.

    >>> ECS.ranks([torch.tensor([0.1, -0.3]), torch.tensor([0.2])])
    [tensor([0, 2]), tensor([1])]
    """

    mode: Mode = "eval"

    def __post_init__(self) -> None:
        require_mode("ECS", self.mode)

    @property
    def needs(self) -> tuple[Statistic, ...]:
        return (Gradient(self.mode),)

    @property
    def reads(self) -> tuple[str, ...]:
        return (RANK,)

    def across(self, weights: Mapping[str, Tensor], statistics: Statistics) -> Statistics:
        gradients = [statistics.get(self.needs[0].kind, name).to(weight.device) for name, weight in weights.items()]
        ranked = zip(weights, self.ranks(list(weights.values())), self.ranks(gradients), strict=True)
        total = max(1, sum(weight.numel() for weight in weights.values()))
        better = {name: torch.maximum(one, other).double() / total for name, one, other in ranked}
        sums = {name: score * statistics.samples for name, score in better.items()}
        return Statistics({**statistics.sums, RANK: sums}, statistics.samples)

    @staticmethod
    def ranks(tensors: list[Tensor]) -> list[Tensor]:
        """For each element how many of all have a smaller absolute value."""
        if not tensors:
            return []
        flat = torch.cat([tensor.detach().reshape(-1).abs() for tensor in tensors])
        found = torch.searchsorted(flat.sort().values, flat)
        sizes = [tensor.numel() for tensor in tensors]
        return [part.view_as(tensor) for part, tensor in zip(found.split(sizes), tensors, strict=True)]

    def __call__(self, inputs: Inputs) -> Tensor:
        return inputs.statistics[RANK]
