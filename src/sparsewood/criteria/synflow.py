"""SynFlow: what passes through a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsewood.criteria.base import Criterion, Inputs
from sparsewood.statistics import Statistic, SynapticFlow
from sparsewood.statistics.synaptic_flow import Precision


@dataclass(frozen=True)
class SynFlow(Criterion):
    """score = |w| * dR/d|w|, R the sum of the outputs of the network with weights |w| for an input of ones.

    It needs no data but the shape of an example, and no loss. Scores of a layer through which all flows sum to R, those
    into a unit to those out of it, so that the largest layer never has the smallest scores alone: with scores taken
    anew in `iterations=100` small steps (`prune`), in practice hardly a layer is emptied before one weight is left in
    each. Steps are not infinitely small: of three VGG-16, one lost a layer at 15 weights for 14 layers.

    How the network is made positive, which products of activations count as open gates, and of which layers it warns,
    `statistics.SynapticFlow` says. A unit's score is the sum of its elements' scores.
    Source: Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow",
    https://arxiv.org/abs/2006.05467.

    >>> import torch
    >>> SynFlow()(Inputs("w", torch.tensor([2.0, -1.0]), {SynFlow().needs[0].kind: torch.tensor([1.0, 3.0])}))
    tensor([2., 3.])
    """

    precision: Precision = "float64"
    pointwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        SynapticFlow(self.precision)

    @property
    def needs(self) -> tuple[Statistic, ...]:
        return (SynapticFlow(self.precision),)

    def __call__(self, inputs: Inputs) -> Tensor:
        return inputs.weight.abs() * inputs.statistics[self.needs[0].kind]
