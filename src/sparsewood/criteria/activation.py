"""Weights scaled by what they receive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsewood.criteria.base import Criterion, Inputs
from sparsewood.errors import SparsewoodError
from sparsewood.statistics import InputPower, Statistic


@dataclass(frozen=True)
class ActivationMagnitude(Criterion):
    """score = |w_oc| * (mean over examples and positions of |x_c|^p)^(1/p), x_c the input that w_oc multiplies.

    With p = 2 and the scope `PerRow()` this is Wanda: its ||X_c||_2 is this root mean square times a constant of the
    layer. With p = 1 it is ShrinkBench's activation magnitude. For Linear and convolution layers.

    Source: Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models",
    https://arxiv.org/abs/2306.11695.

    >>> import torch
    >>> inputs = Inputs("w", torch.tensor([[1.0, -2.0]]), {"input power 2": torch.tensor([[16.0, 1.0]])})
    >>> ActivationMagnitude()(inputs)
    tensor([[4., 2.]])
    """

    p: float = 2.0
    pointwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.p, int | float) or not 0 < self.p < float("inf"):
            raise SparsewoodError(f"ActivationMagnitude needs a finite p > 0. Got {self.p!r}.")

    @property
    def needs(self) -> tuple[Statistic, ...]:
        return (InputPower(self.p),)

    def __call__(self, inputs: Inputs) -> Tensor:
        power = inputs.statistics[InputPower(self.p).kind]
        return inputs.weight.abs() * power.to(inputs.weight.dtype).pow(1 / self.p)
