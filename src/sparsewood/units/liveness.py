"""Units that do nothing, or always the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.structure import Structure
from sparsewood.units.chosen import sites_for
from sparsewood.units.collecting import UnitStatistics, collect_units
from sparsewood.units.kinds import ActivationEnergy, ActivationMaximum, ActivationMean, ActivationMinimum, ZeroFraction

__all__ = ["Liveness", "ZeroFractions", "apoz", "dead_units"]

ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class ZeroFractions:
    """The fraction of zeros of every unit, by layer: `scores[layer]` is float64[units], in [0, 1]."""

    scores: Mapping[str, Tensor]
    statistics: UnitStatistics = field(repr=False)
    at_sites: Mapping[str, Tensor] = field(repr=False)

    def of_groups(self) -> dict[str, Tensor]:
        """The fractions of the removable units, by group: float64[units]."""
        return self.statistics.of_groups(self.at_sites)


def apoz(
    model: nn.Module,
    data: Iterable[Any],
    *,
    layers: str | Sequence[str] | None = None,
    structure: Structure | None = None,
) -> ZeroFractions:
    """The average fraction of zeros (APoZ) of every unit.

    APoZ(j) = the mean, over examples and places, of [a_j = 0]: 1 for a unit that is always 0, 0 for one that never is.
    It is measured behind the activation function, for every neuron of a linear layer and every channel of a
    convolution. The data are read once, and the model is left as it was.

    Source: Hu et al. 2016, "Network Trimming", https://arxiv.org/abs/1607.03250.

    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> apoz(net, [torch.tensor([[1.0], [2.0], [3.0], [-1.0]])]).scores
    {'0': tensor([0.2500, 0.7500], dtype=torch.float64)}
    """
    data, structure, sites = sites_for(model, data, layers, structure)
    found = collect_units(model, data, [ZeroFraction()], structure=structure, sites=sites)
    at_sites = {name: sums.cpu() / found.samples for name, sums in found.sums[ZeroFraction().kind].items()}
    return ZeroFractions(
        {name: found.of_layer(at_sites, layer) for name, layer in found.layers().items()}, found, at_sites
    )


@dataclass(frozen=True, eq=False)
class Liveness:
    """Which units do nothing, or always the same, by layer: bool[units] each; no unit is counted twice.

    `dead` units are exactly 0 for every example at every place. `constant` ones have one other value, up to rounding.
    `saturated` ones hardly change: their standard deviation over examples and places is at most `threshold` times their
    largest absolute value. `zeros` is the fraction of zeros.
    """

    dead: Mapping[str, Tensor]
    constant: Mapping[str, Tensor]
    saturated: Mapping[str, Tensor]
    zeros: Mapping[str, Tensor] = field(repr=False)
    threshold: float
    examples: int

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """For every layer how many units there are, and how many of each kind."""
        return {
            name: {
                "units": len(self.dead[name]),
                "dead": int(self.dead[name].sum()),
                "constant": int(self.constant[name].sum()),
                "saturated": int(self.saturated[name].sum()),
            }
            for name in self.dead
        }

    def __str__(self) -> str:
        width = max(5, *(len(name) for name in self.dead))
        head = f"{'layer':<{width}}  units  dead  constant  saturated"
        rows = [
            f"{name:<{width}}  {one['units']:>5}  {one['dead']:>4}  {one['constant']:>8}  {one['saturated']:>9}"
            for name, one in self.counts.items()
        ]
        return "\n".join([head, *rows])


def dead_units(
    model: nn.Module,
    data: Iterable[Any],
    *,
    threshold: float = 0.05,
    layers: str | Sequence[str] | None = None,
    structure: Structure | None = None,
) -> Liveness:
    """Which units are dead, constant or saturated over some data; see `Liveness`.

    What no example of `data` excites may still be excited by others. The data are read once, and the model is left as
    it was.

    >>> net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [0.0], [0.0]]))
    >>> _ = net[0].bias.data.copy_(torch.tensor([0.0, 2.0, -1.0]))
    >>> print(dead_units(net, [torch.tensor([[1.0], [-1.0]])]))
    layer  units  dead  constant  saturated
    0          3     1         1          0
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold < 1:
        raise SparsewoodError(f"dead_units: threshold must be a number in [0, 1). Got {threshold!r}.")
    data, structure, sites = sites_for(model, data, layers, structure)
    kinds = (ActivationMean(), ActivationEnergy(), ActivationMaximum(), ActivationMinimum(), ZeroFraction())
    found = collect_units(model, data, kinds, structure=structure, sites=sites)
    flags: dict[str, dict[str, Tensor]] = {"dead": {}, "constant": {}, "saturated": {}, "zeros": {}}
    for name in found.sums[kinds[0].kind]:
        one = [found.sums[kind.kind][name].cpu() for kind in kinds]
        mean, energy, zeros = (one[i] / found.samples for i in (0, 1, 4))
        for what, flag in _judged(mean, energy, one[2], one[3], threshold).items():
            flags[what][name] = flag.double()
        flags["zeros"][name] = zeros
    named = found.layers()
    by_layer = {what: {name: found.of_layer(of, one) for name, one in named.items()} for what, of in flags.items()}
    zeros = by_layer.pop("zeros")
    # A layer that is seen several times is what it is wherever it is seen.
    return Liveness(
        **{what: {name: one == 1 for name, one in of.items()} for what, of in by_layer.items()},
        zeros=zeros,
        threshold=threshold,
        examples=found.samples,
    )


def _judged(mean: Tensor, energy: Tensor, high: Tensor, low: Tensor, threshold: float) -> dict[str, Tensor]:
    largest = torch.maximum(high.abs(), low.abs())
    deviation = (energy - mean.square()).clamp_min(0).sqrt()
    dead = largest == 0
    constant = ~dead & (high - low <= ROUNDING * largest)
    return {"dead": dead, "constant": constant, "saturated": ~dead & ~constant & (deviation <= threshold * largest)}
