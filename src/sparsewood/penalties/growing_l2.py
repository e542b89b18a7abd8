"""A penalty that grows on units that are to go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsewood.errors import SparsewoodError
from sparsewood.penalties.base import Penalty, Weights, require_number


@dataclass(frozen=True)
class GrowingL2(Penalty):
    """value = lambda_t / 2 * sum over chosen units u of ||w_u||^2; gradient = lambda_t w for each u that holds w.

        lambda_t = min(ceiling, step * floor(t / every))        at step t of training

    Chosen before the first step, and for good, are `sparsity` of the units of each group: those with the least L1 norm
    of all their elements in weights (parameters of two axes or more); round(sparsity * units), and never all of them;
    of equal ones the lower index is not chosen. The others keep what weight decay the optimizer has. A penalty that
    grows slowly leaves the network time to move what the units do elsewhere.

    Source: Wang et al. 2021, "Neural Pruning via Growing Regularization" (GReg-1), https://arxiv.org/abs/2012.09243.

    >>> from torch import nn
    >>> from sparsewood import trace
    >>> from sparsewood.penalties import UnitMap
    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> tensors = {"0.weight": torch.tensor([[3.0], [-1.0]]), "2.weight": torch.ones(1, 2)}
    >>> units = UnitMap.of(trace(net, torch.ones(1, 1)), tensors)
    >>> penalty = GrowingL2(0.5, step=0.1, every=10)
    >>> decided = penalty.decide(Weights(tensors, units))
    >>> decided, penalty(Weights(tensors, units, 25, decided))["0.weight"].flatten()
    ({'0': tensor([False,  True])}, tensor([ 0.0000, -0.2000]))
    """

    sparsity: float
    step: float = 1e-4
    every: int = 10
    ceiling: float = 1.0
    grouped: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_number(self, "sparsity", self.sparsity, 1)
        require_number(self, "step", self.step)
        require_number(self, "ceiling", self.ceiling)
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise SparsewoodError(f"GrowingL2: every must be a whole number of steps >= 1. Got {self.every!r}.")

    def at(self, step: int) -> float:
        """lambda_t."""
        return min(self.ceiling, self.step * (step // self.every))

    def decide(self, weights: Weights) -> dict[str, Tensor]:
        norms = weights.map.sums({name: t.detach().abs() for name, t in weights.tensors.items() if t.dim() > 1})
        return {name: self._chosen(one) for name, one in norms.items()}

    def _chosen(self, norms: Tensor) -> Tensor:
        units = len(norms)
        gone = min(round(self.sparsity * units), units - 1)
        order = norms.sort(descending=True, stable=True).indices
        chosen = torch.zeros_like(norms, dtype=torch.bool)
        chosen[order[units - gone :]] = True
        return chosen

    def value(self, weights: Weights) -> Tensor:
        squares = weights.map.sums({name: tensor.square() for name, tensor in weights.tensors.items()})
        chosen = [(squares[name] * gone).sum() for name, gone in weights.decided.items()]
        return self.at(weights.step) / 2 * torch.stack(chosen).sum()

    def __call__(self, weights: Weights) -> dict[str, Tensor]:
        some = next(iter(weights.tensors.values()))
        factors = {name: self.at(weights.step) * gone.to(some.dtype) for name, gone in weights.decided.items()}
        spread = weights.map.spread(factors, weights.tensors)
        return {name: weights.tensors[name] * factor for name, factor in spread.items()}
