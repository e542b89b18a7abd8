"""Channel independence: what the nuclear norm loses without a channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.unit_criteria.base import SiteCriterion
from sparsewood.units.kinds import UnitStatistic
from sparsewood.units.seen import Seen

__all__ = ["ChannelIndependence", "NuclearNormLoss"]

CHUNK = 1 << 22
"""Entries of matrices whose eigenvalues are computed at a time."""


@dataclass(frozen=True)
class NuclearNormLoss(UnitStatistic):
    """sum over examples of ||A||_* - ||A without row j||_*, A = the maps of all units [units, places]: float64[units].

    In float64, from the eigenvalues of the smaller of A A^T and A^T A: for each example as many of them as there are
    units, so a few dozen examples are what is meant.
    """

    @property
    def kind(self) -> str:
        return "nuclear norm loss"

    def of(self, seen: Seen) -> Tensor:
        return torch.stack([_losses(one) for one in seen.maps.double()]).sum(0)


def _losses(maps: Tensor) -> Tensor:
    """float64[units] for one example's maps, float64[units, places]."""
    units, places = maps.shape
    of_rows = units <= places
    gram = maps @ maps.T if of_rows else maps.T @ maps
    whole = _nuclear(gram.unsqueeze(0))
    found = []
    for rows in torch.arange(units, device=maps.device).split(max(1, CHUNK // len(gram) ** 2)):
        if of_rows:
            without = gram.expand(len(rows), -1, -1).clone()
            number = torch.arange(len(rows), device=maps.device)
            without[number, rows, :] = 0
            without[number, :, rows] = 0
        else:
            without = gram - maps[rows].unsqueeze(2) * maps[rows].unsqueeze(1)
        found.append(whole - _nuclear(without))
    return torch.cat(found)


def _nuclear(gram: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().sum(-1)


@dataclass(frozen=True)
class ChannelIndependence(SiteCriterion):
    """score_j = mean over examples of ||A||_* - ||M_j A||_*, A = feature maps [channels, places], M_j without row j.

    ||.||_* is the nuclear norm. A channel that the others can stand in for changes it little, and goes first. The
    scale is that of the layer's activations: between layers, see `PerLayerNormalized`.

    Source: Sui et al. 2021, "CHIP: CHannel Independence-based Pruning for Compact Neural Networks",
    https://arxiv.org/abs/2110.13981.

    >>> ChannelIndependence().scores({"nuclear norm loss": torch.tensor([4.0, 1.0])}, samples=2)
    tensor([2.0000, 0.5000])
    """

    @property
    def needs(self) -> tuple[UnitStatistic, ...]:
        return (NuclearNormLoss(),)

    def scores(self, found: Mapping[str, Tensor], samples: int) -> Tensor:
        return found[NuclearNormLoss().kind] / samples
