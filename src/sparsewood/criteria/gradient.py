"""Weight times gradient: first-order change of the loss when a weight is set to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsewood.criteria.base import Criterion, Inputs
from sparsewood.statistics import AbsoluteGradient, Gradient, Statistic
from sparsewood.statistics.kinds import Mode, require_mode


@dataclass(frozen=True)
class WeightTimesGradient(Criterion):
    """score = |w * mean_n g_n|: the signed gradients g_n of all examples are averaged before the absolute value.

    Gradients are those of eval mode; the mean makes the score independent of how the data is cut into batches. Also
    known as gradient magnitude (ShrinkBench) and, on an untrained network, as the un-normalised SNIP score (connection
    sensitivity: |dL/dc| of weights c w at c = 1). With mode "train" BatchNorm normalises by the batch, which on an
    untrained network makes other scores, and dropout is on. Biases that start at 0 have score 0. A unit's score is the
    sum of its elements' scores.

    Source: Lee et al. 2019, "SNIP", https://arxiv.org/abs/1810.02340; Blalock et al. 2020,
    https://arxiv.org/abs/2003.03033.

    >>> import torch
    >>> WeightTimesGradient()(Inputs("w", torch.tensor([2.0, -1.0]), {"gradient": torch.tensor([-1.0, 3.0])}))
    tensor([2., 3.])
    """

    mode: Mode = "eval"
    pointwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_mode("WeightTimesGradient", self.mode)

    @property
    def needs(self) -> tuple[Statistic, ...]:
        return (Gradient(self.mode),)

    def __call__(self, inputs: Inputs) -> Tensor:
        return (inputs.weight * inputs.statistics[Gradient(self.mode).kind]).abs_()


@dataclass(frozen=True)
class WeightTimesAbsoluteGradient(Criterion):
    """score = |w| * mean_n |g_n|: absolute values are taken for each example, before averaging.

    Gradients of opposite sign do not cancel as they do in `WeightTimesGradient`, which this never falls below. Every
    example is run by itself, so it is slow, and independent of the batch size.

    Source: the per-example absolute Taylor term of Molchanov et al. 2017, https://arxiv.org/abs/1611.06440, for single
    weights.

    >>> import torch
    >>> statistics = {"absolute gradient": torch.tensor([1.0, 3.0])}
    >>> WeightTimesAbsoluteGradient()(Inputs("w", torch.tensor([2.0, -1.0]), statistics))
    tensor([2., 3.])
    """

    pointwise: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[Statistic, ...]:
        return (AbsoluteGradient(),)

    def __call__(self, inputs: Inputs) -> Tensor:
        return inputs.weight.abs() * inputs.statistics[AbsoluteGradient().kind]
