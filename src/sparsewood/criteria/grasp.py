"""GraSP: what keeps the gradient large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsewood.criteria.base import Criterion, Inputs
from sparsewood.statistics import HessianGradient, Statistic
from sparsewood.statistics.kinds import Mode


@dataclass(frozen=True)
class GraSP(Criterion):
    """score = w * (H g), signed: half of how much |g|^2, the squared norm of the gradient, falls when w is set to 0.

    d|g|^2 / dw = 2 H g, so that to first order |g|^2 changes by -2 w (H g) without w; what would raise it goes first.
    The scores sum to w . H g. The loss is that of outputs / `temperature`: 200 makes the probabilities of an untrained
    network nearly equal, so that they do not depend on its scale; the loss must then take outputs before softmax. A
    loss that the model computes itself does not fit: it raises `SparsewoodError`, and takes temperature 1. g is that of
    the weights that are left: with `masks` or `iterations` (`prune`), what is masked is no part of it. For data, the
    paper takes 10 examples of each class (`sparsewood.data.balanced`).

    With mode "train", as in the paper's code, BatchNorm normalises by the batch. A unit's score is the sum of its
    elements' scores. Source: Wang et al. 2020, "Picking Winning Tickets Before Training by Preserving Gradient Flow",
    https://arxiv.org/abs/2002.07376.

    >>> import torch
    >>> GraSP()(Inputs("w", torch.tensor([2.0, -1.0]), {GraSP().needs[0].kind: torch.tensor([-1.0, -3.0])}))
    tensor([-2.,  3.])
    """

    temperature: float = 200.0
    mode: Mode = "eval"
    pointwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        HessianGradient(self.temperature, self.mode)

    @property
    def needs(self) -> tuple[Statistic, ...]:
        return (HessianGradient(self.temperature, self.mode),)

    def __call__(self, inputs: Inputs) -> Tensor:
        return inputs.weight * inputs.statistics[self.needs[0].kind]
