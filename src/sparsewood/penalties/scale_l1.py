"""The L1 norm of BatchNorm scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.parameters import Entry, is_batchnorm_scale
from sparsewood.penalties.base import Penalty, Weights, require_number


@dataclass(frozen=True)
class ScaleL1(Penalty):
    """value = strength * sum |gamma|, gradient = strength * sign(gamma), over the affine scales of BatchNorm layers.

    Network slimming: channels whose scale the training drives to 0 are removed, by the criterion `BatchNormScale`. The
    sign of 0 is 0. Liu et al. take a strength of 1e-4, and 1e-5 for ResNet and DenseNet.

    Source: Liu et al. 2017, "Network Slimming", https://arxiv.org/abs/1708.06519.

    >>> weights = Weights({"bn.weight": torch.tensor([-2.0, 0.0, 0.5])})
    >>> ScaleL1(0.1)(weights)["bn.weight"], ScaleL1(0.1).value(weights)
    (tensor([-0.1000,  0.0000,  0.1000]), tensor(0.2500))
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        require_number(self, "strength", self.strength)

    def covers(self, entry: Entry) -> bool:
        return is_batchnorm_scale(entry)

    def value(self, weights: Weights) -> Tensor:
        return self.strength * torch.stack([tensor.abs().sum() for tensor in weights.tensors.values()]).sum()

    def __call__(self, weights: Weights) -> dict[str, Tensor]:
        return {name: self.strength * tensor.sign() for name, tensor in weights.tensors.items()}
