"""The scale of BatchNorm layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsewood.criteria.base import Criterion, Inputs
from sparsewood.parameters import Entry, is_batchnorm_scale


@dataclass(frozen=True)
class BatchNormScale(Criterion):
    """score = |gamma|, for the affine scales of BatchNorm layers, which are what this criterion chooses among.

    Means something when the scales were trained with an L1 penalty. The masks are those of the scales; the channel
    behind a masked scale still passes on the shift beta.

    Source: Liu et al. 2017, "Network Slimming", https://arxiv.org/abs/1708.06519.

    >>> import torch
    >>> BatchNormScale()(Inputs("bn.weight", torch.tensor([-0.5, 2.0])))
    tensor([0.5000, 2.0000])
    """

    pointwise: ClassVar[bool] = True

    def __call__(self, inputs: Inputs) -> Tensor:
        return inputs.weight.abs()

    def covers(self, entry: Entry) -> bool:
        return is_batchnorm_scale(entry)
