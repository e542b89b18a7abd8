"""Norms of groups of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsewood.criteria.base import Criterion, Inputs
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import Reduction


@dataclass(frozen=True)
class LpNorm(Criterion):
    """score of a unit = (sum |w|^p)^(1/p), or max |w| for p = inf; divided by the unit's size if `normalized`.

    Un-normalised norms grow with the number of weights in a unit, so that a global comparison favours layers with large
    units; `normalized=True` takes that away for p = 1. For finite p > 2 scores are float64: float32 would underflow.

    Source: Li et al. 2016, "Pruning Filters for Efficient ConvNets", https://arxiv.org/abs/1608.08710 (p = 1); He et
    al. 2018, "Soft Filter Pruning", https://arxiv.org/abs/1808.06866 (p = 2).

    >>> import torch
    >>> LpNorm(2).finish(torch.tensor(25.0), size=2)
    tensor(5.)
    """

    p: float = 2.0
    normalized: bool = False
    pointwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.p, int | float) or not self.p > 0:
            raise SparsewoodError(f"LpNorm needs p > 0 (math.inf for the maximum). Got {self.p!r}.")

    @property
    def reduction(self) -> Reduction:
        return "amax" if math.isinf(self.p) else "sum"

    def __call__(self, inputs: Inputs) -> Tensor:
        magnitude = inputs.weight.abs()
        return magnitude if math.isinf(self.p) or self.p == 1 else _power(magnitude, self.p)

    def finish(self, total: Tensor, size: int) -> Tensor:
        norm = total if math.isinf(self.p) else total.pow(1 / self.p)
        return norm / size if self.normalized else norm


@dataclass(frozen=True)
class MeanPower(Criterion):
    """score of a unit = (1/m) sum |w|^p over its m elements: the mean square for p = 2.

    Source: the `norm` scorer of Evci et al. 2018, "Mean Replacement Pruning",
    https://openreview.net/forum?id=BJxRVnC5Fm.

    >>> import torch
    >>> MeanPower(2).finish(torch.tensor(30.0), size=3)
    tensor(10.)
    """

    p: float = 2.0
    pointwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.p, int | float) or not 0 < self.p < math.inf:
            raise SparsewoodError(f"MeanPower needs a finite p > 0. Got {self.p!r}.")

    def __call__(self, inputs: Inputs) -> Tensor:
        return _power(inputs.weight.abs(), self.p)

    def finish(self, total: Tensor, size: int) -> Tensor:
        return total / size


def _power(magnitude: Tensor, p: float) -> Tensor:
    """To the power p; above 2 in float64, since 1e-4 to the power 12 is 0 in float32, as all small weights would be."""
    wide = p > 2 and magnitude.device.type != "mps"  # which has no float64
    return (magnitude.double() if wide else magnitude).pow(p)
