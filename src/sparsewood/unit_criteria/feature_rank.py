"""The rank of feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.unit_criteria.base import SiteCriterion
from sparsewood.units.kinds import UnitStatistic
from sparsewood.units.seen import Seen

__all__ = ["FeatureMapRank", "FeatureRank"]


@dataclass(frozen=True)
class FeatureMapRank(UnitStatistic):
    """sum over examples of the rank of a_j as a matrix (height, width): float64[units].

    What has no two axes of places (neurons, tokens) has rank 1 where it is not all 0, else 0.
    """

    @property
    def kind(self) -> str:
        return "feature map rank"

    def of(self, seen: Seen) -> Tensor:
        places = seen.values.ndim - 2 - seen.folded
        if places < 2 or seen.site.columns != len(seen.site.owner):
            return (seen.maps != 0).any(2).double().sum(0)
        maps = seen.values.movedim(seen.axis, 1)
        wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
        ranks = torch.linalg.matrix_rank(wide).double()
        return ranks.reshape(*ranks.shape[:2], -1).mean(2).sum(0)


@dataclass(frozen=True)
class FeatureRank(SiteCriterion):
    """score_j = mean over examples of the rank of the feature map of channel j (HRank).

    Channels whose maps have low rank carry little and go first. For units without two axes of places it is the share
    of examples for which they are not all 0.

    Source: Lin et al. 2020, "HRank: Filter Pruning using High-Rank Feature Map", https://arxiv.org/abs/2002.10179.

    >>> FeatureRank().scores({"feature map rank": torch.tensor([4.0, 1.0])}, samples=2)
    tensor([2.0000, 0.5000])
    """

    @property
    def needs(self) -> tuple[UnitStatistic, ...]:
        return (FeatureMapRank(),)

    def scores(self, found: Mapping[str, Tensor], samples: int) -> Tensor:
        return found[FeatureMapRank().kind] / samples
