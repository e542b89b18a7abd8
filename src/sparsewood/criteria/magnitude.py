"""Magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsewood.criteria.base import Criterion, Inputs


@dataclass(frozen=True)
class Magnitude(Criterion):
    """score = |w|; a unit's score is its L1 norm, the sum of |w| over its elements.

    Source: Janowsky 1989, "Pruning versus clipping in neural networks", https://doi.org/10.1103/PhysRevA.39.6600; in
    its present form Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks",
    https://arxiv.org/abs/1506.02626; for filters Li et al. 2016, https://arxiv.org/abs/1608.08710.

    >>> import torch
    >>> Magnitude()(Inputs("w", torch.tensor([-3.0, 0.5])))
    tensor([3.0000, 0.5000])
    """

    pointwise: ClassVar[bool] = True

    def __call__(self, inputs: Inputs) -> Tensor:
        return inputs.weight.abs()
