"""How active a unit is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsewood.unit_criteria.base import SiteCriterion
from sparsewood.units.kinds import ActivationEnergy, ActivationMean, UnitStatistic, ZeroFraction


@dataclass(frozen=True)
class MeanActivation(SiteCriterion):
    """score_j = mean over examples and places of a_j: the most active units stay.

    Source: Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    section 2.2, https://arxiv.org/abs/1611.06440.

    >>> import torch
    >>> MeanActivation().scores({"mean": torch.tensor([4.0, 1.0])}, samples=2)
    tensor([2.0000, 0.5000])
    """

    @property
    def needs(self) -> tuple[UnitStatistic, ...]:
        return (ActivationMean(),)

    def scores(self, found: Mapping[str, Tensor], samples: int) -> Tensor:
        return found[ActivationMean().kind] / samples


@dataclass(frozen=True)
class MeanEnergy(SiteCriterion):
    """score_j = mean over examples and places of a_j^2.

    Source: the l2norm of the scorer of Evci et al. 2018, "Mean Replacement Pruning",
    https://openreview.net/forum?id=BJxRVnC5Fm.

    >>> import torch
    >>> MeanEnergy().scores({"energy": torch.tensor([4.0, 1.0])}, samples=2)
    tensor([2.0000, 0.5000])
    """

    @property
    def needs(self) -> tuple[UnitStatistic, ...]:
        return (ActivationEnergy(),)

    def scores(self, found: Mapping[str, Tensor], samples: int) -> Tensor:
        return found[ActivationEnergy().kind] / samples


@dataclass(frozen=True)
class NonZeroFraction(SiteCriterion):
    """score_j = 1 - APoZ_j = the fraction of examples and places at which a_j is not 0: units that are often 0 go.

    Source: Hu et al. 2016, "Network Trimming", https://arxiv.org/abs/1607.03250.

    >>> import torch
    >>> NonZeroFraction().scores({"zeros": torch.tensor([2.0, 0.5])}, samples=2)
    tensor([0.0000, 0.7500])
    """

    @property
    def needs(self) -> tuple[UnitStatistic, ...]:
        return (ZeroFraction(),)

    def scores(self, found: Mapping[str, Tensor], samples: int) -> Tensor:
        return 1 - found[ZeroFraction().kind] / samples
