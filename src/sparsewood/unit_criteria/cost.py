"""Scores of another criterion, less what a unit costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsewood.errors import SparsewoodError
from sparsewood.structure import Structure
from sparsewood.structure.counts import total_macs
from sparsewood.unit_criteria.base import UnitCriterion, Wrapper, require_criterion

__all__ = ["MinusMACs"]


@dataclass(frozen=True)
class MinusMACs(Wrapper):
    """score_j = s_j - strength * c_j / c, s the scores of `criterion`, c_j the multiply-adds that go with unit j.

    c are the multiply-adds of the whole network, both counted on the example inputs of the structure: of two units that
    are worth the same, the one that costs more goes first. Scores of different layers should be on one scale, as those
    of `PerLayerNormalized` are.

    Source: Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", FLOPs
    regularization, section 2.2, https://arxiv.org/abs/1611.06440.

    >>> import torch
    >>> from torch import nn
    >>> from sparsewood import trace
    >>> from sparsewood.unit_criteria import FilterNorm
    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [3.0]]))
    >>> criterion, structure = MinusMACs(FilterNorm(), strength=0.2), trace(net, torch.ones(1, 1))
    >>> criterion(net, structure, data=None, loss=None, generator=torch.Generator())  # each has 2 of 4 multiply-adds
    {'0': tensor([0.4000, 1.4000], dtype=torch.float64)}
    """

    criterion: UnitCriterion
    strength: float

    def __post_init__(self) -> None:
        require_criterion(self)
        number = isinstance(self.strength, int | float) and not isinstance(self.strength, bool)
        if not number or not 0 <= self.strength < math.inf:
            raise SparsewoodError(f"MinusMACs needs a finite strength >= 0. Got {self.strength!r}.")

    def changed(self, structure: Structure, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        of_all = max(total_macs(structure), 1)
        return {name: one - self.strength * structure.macs(name) / of_all for name, one in scores.items()}
