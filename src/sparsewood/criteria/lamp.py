"""Layer-adaptive magnitude."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.criteria.base import Criterion, Inputs


@dataclass(frozen=True)
class LAMP(Criterion):
    """score_i = w_i^2 / sum of w_j^2 over the weights j of the same tensor that are ranked at or above i.

    The ranking is by |w|, equal ones by position, lower first; the best weight of a tensor scores 1, so that a global
    selection empties no layer before another. A tensor of zeros scores 0. Sums in float64.

    Source: Lee et al. 2021, "Layer-adaptive sparsity for the Magnitude-based Pruning",
    https://arxiv.org/abs/2010.07611.

    >>> LAMP()(Inputs("w", torch.tensor([1.0, 2.0, 2.0])))
    tensor([0.1111, 1.0000, 0.5000], dtype=torch.float64)
    """

    def __call__(self, inputs: Inputs) -> Tensor:
        squares = inputs.weight.reshape(-1).double().square()
        order = squares.sort(descending=True, stable=True).indices
        ranked = squares[order]
        scores = torch.empty_like(squares)
        scores[order] = ranked / ranked.cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
        return scores.reshape(inputs.weight.shape)
