"""Squared norms of units, the more the less important they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsewood.penalties.base import Penalty, Weights, require_number


@dataclass(frozen=True)
class GroupScaled(Penalty):
    """value = strength * sum over units u of gamma_u ||w_u||^2; gradient = 2 strength w * sum gamma_u.

        gamma_u = 2^(alpha (max I - I_u) / (max I - min I)),  I_u = ||w_u||^2, max and min over the units of u's group

    w_u are all elements that go with unit u, over all layers. The least important unit of a group has gamma = 2^alpha,
    the most important 1, as all have where their norms are equal. gamma is a constant within a step: the gradient does
    not follow it.

    Source: Fang et al. 2023, "DepGraph", https://arxiv.org/abs/2301.12900, section 3.3.

    >>> from torch import nn
    >>> from sparsewood import trace
    >>> from sparsewood.penalties import UnitMap
    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> tensors = {"0.weight": torch.tensor([[1.0], [2.0]]), "2.weight": torch.zeros(1, 2)}
    >>> GroupScaled(0.5)(Weights(tensors, UnitMap.of(trace(net, torch.ones(1, 1)), tensors)))["0.weight"]
    tensor([[16.],
            [ 2.]])
    """

    strength: float = 1e-4
    alpha: float = 4.0
    grouped: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_number(self, "strength", self.strength)
        require_number(self, "alpha", self.alpha, 64)

    def value(self, weights: Weights) -> Tensor:
        squares = _squares(weights)
        return self.strength * torch.stack([(self._gamma(one) * one).sum() for one in squares.values()]).sum()

    def __call__(self, weights: Weights) -> dict[str, Tensor]:
        factors = {name: 2 * self.strength * self._gamma(one) for name, one in _squares(weights).items()}
        spread = weights.map.spread(factors, weights.tensors)
        return {name: weights.tensors[name] * factor for name, factor in spread.items()}

    def _gamma(self, squares: Tensor) -> Tensor:
        squares = squares.detach()
        most, span = squares.max(), squares.max() - squares.min()
        share = torch.where(span > 0, (most - squares) / span, 0)
        return 2 ** (self.alpha * share)


def _squares(weights: Weights) -> dict[str, Tensor]:
    return weights.map.sums({name: tensor.square() for name, tensor in weights.tensors.items()})
