"""The group lasso over units of the network's structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsewood.penalties.base import Penalty, Weights, require_number


@dataclass(frozen=True)
class GroupLasso(Penalty):
    """value = strength * sum over units u of sqrt(n_u) ||w_u||_2; gradient = strength * w * sum sqrt(n_u) / ||w_u||.

    w_u are the n_u elements of all parameters that go with unit u: its filter, its normalisation and bias, and what
    reads it. The second sum is over the units that hold the element. Units, not single weights, go to 0; at 0 itself
    the gradient is 0.

    Source: Yuan and Lin 2006, "Model selection and estimation in regression with grouped variables",
    https://doi.org/10.1111/j.1467-9868.2005.00532.x; for networks: Wen et al. 2016, https://arxiv.org/abs/1608.03665.

    >>> from torch import nn
    >>> from sparsewood import trace
    >>> from sparsewood.penalties import UnitMap
    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> tensors = {"0.weight": torch.tensor([[3.0], [0.0]]), "2.weight": torch.tensor([[4.0, 0.0]])}
    >>> weights = Weights(tensors, UnitMap.of(trace(net, torch.ones(1, 1)), tensors))
    >>> GroupLasso(1.0).value(weights) / 2**0.5, GroupLasso(1.0)(weights)["2.weight"] / 2**0.5
    (tensor(5.), tensor([[0.8000, 0.0000]]))
    """

    strength: float = 1e-4
    grouped: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_number(self, "strength", self.strength)

    def value(self, weights: Weights) -> Tensor:
        squares = weights.map.sums({name: tensor.square() for name, tensor in weights.tensors.items()})
        parts = [
            # The root has no finite gradient at 0, so that it is taken of something else there.
            (weights.map.sizes[name] * torch.where(one > 0, one, 1)).sqrt().where(one > 0, 0).sum()
            for name, one in squares.items()
        ]
        return self.strength * torch.stack(parts).sum()

    def __call__(self, weights: Weights) -> dict[str, Tensor]:
        squares = weights.map.sums({name: tensor.square() for name, tensor in weights.tensors.items()})
        factors = {
            name: torch.where(one > 0, self.strength * (weights.map.sizes[name] / one).sqrt(), 0)
            for name, one in squares.items()
        }
        spread = weights.map.spread(factors, weights.tensors)
        return {name: weights.tensors[name] * factor for name, factor in spread.items()}
