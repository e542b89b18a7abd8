"""Units that do nothing, or always the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.structure import Structure
from sparsewood.units.collecting import UnitStatistics, collect_units
from sparsewood.units.kinds import ActivationEnergy, ActivationMaximum, ActivationMean, ActivationMinimum, ZeroFraction
from sparsewood.units.sites import Layer

__all__ = ["Liveness", "ZeroFractions", "apoz", "dead_units"]

ROUNDING = 1e-6
KINDS = ("dead", "constant", "saturated")
DEAD, CONSTANT, SATURATED, OTHER = range(4)


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
    found = collect_units(model, data, [ZeroFraction()], structure=structure, layers=layers)
    at_sites = {name: sums.cpu() / found.samples for name, sums in found.sums[ZeroFraction().kind].items()}
    return ZeroFractions(
        {name: found.of_layer(at_sites, layer) for name, layer in found.layers().items()}, found, at_sites
    )


@dataclass(frozen=True, eq=False)
class Liveness:
    """Which units do nothing, or always the same, by layer: bool[units] each; no unit is counted twice.

    `dead` units are exactly 0 for every example at every place. `constant` ones have one value, up to rounding.
    `saturated` ones hardly move away from a value that is not 0: their standard deviation over examples and places is
    at most `threshold` times the absolute value of their mean. A unit that is seen at several places of the forward is
    what it is where it does most, and one that is seen nowhere is none of these.

    `zeros` is the fraction of zeros and `lowest` the smallest value, float64[units], NaN for units that are seen
    nowhere. `at_sites` is what was found where units are seen: 0 dead, 1 constant, 2 saturated, 3 none of these.
    """

    dead: Mapping[str, Tensor]
    constant: Mapping[str, Tensor]
    saturated: Mapping[str, Tensor]
    zeros: Mapping[str, Tensor] = field(repr=False)
    lowest: Mapping[str, Tensor] = field(repr=False)
    threshold: float
    statistics: UnitStatistics = field(repr=False)
    at_sites: Mapping[str, Tensor] = field(repr=False)

    @property
    def examples(self) -> int:
        """Over how many examples."""
        return self.statistics.samples

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """For every layer how many units there are, and how many of each kind."""
        kinds = {"dead": self.dead, "constant": self.constant, "saturated": self.saturated}
        return {
            name: {"units": len(self.dead[name]), **{kind: int(of[name].sum()) for kind, of in kinds.items()}}
            for name in self.dead
        }

    def of_groups(self) -> dict[str, Tensor]:
        """Which removable units are dead wherever they are seen, by group: bool[units]."""
        return {name: one == DEAD for name, one in self.statistics.of_groups(self.at_sites, "max").items()}

    def __repr__(self) -> str:
        total = {what: sum(one[what] for one in self.counts.values()) for what in KINDS}
        listed = ", ".join(f"{number} {what}" for what, number in total.items())
        return f"Liveness({listed}; {len(self.dead)} layers, {self.examples} examples)"

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
    """Which units are dead, constant or saturated over some data.

    With max, min, mean and std over examples and places of what a unit j gives,

        dead: max |a_j| = 0    constant: max - min <= 1e-6 max |a_j|    saturated: std <= threshold |mean|

    and each unit the first of these that is true of it. A unit that a single example excites is none of them, however
    many examples there are: its std is far above its mean. What no example of `data` excites may still be excited by
    others. The data are read once, and the model is left as it was.

    Args:
        data: batches as `collect` takes them.
        threshold: in [0, 1); numbers are summed in float32, so that below about 0.001 it is rounding that decides.
        layers: names or patterns of the layers to look at, all by default.
        structure: of the model; without it the model is traced on the first batch.

    Raises `SparsewoodError` for activations that are NaN or infinite.

    >>> net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [0.0], [0.0]]))
    >>> _ = net[0].bias.data.copy_(torch.tensor([0.0, 2.0, -1.0]))
    >>> print(dead_units(net, [torch.tensor([[1.0], [-1.0]])]))
    layer  units  dead  constant  saturated
    0          3     1         1          0
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold < 1:
        raise SparsewoodError(f"dead_units: threshold must be a number in [0, 1). Got {threshold!r}.")
    found = collect_units(model, data, _NEEDED, structure=structure, layers=layers)
    sums = {one.kind: {name: of.cpu() for name, of in found.sums[one.kind].items()} for one in _NEEDED}
    states = {
        name: _state(name, {kind: of[name] for kind, of in sums.items()}, found.samples, threshold)
        for name in sums["mean"]
    }
    lowest, named = {name: -of for name, of in sums["minimum"].items()}, found.layers()
    zeros = {name: of / found.samples for name, of in sums["zeros"].items()}
    state = {name: _largest(states, layer) for name, layer in named.items()}
    return Liveness(
        **{kind: {name: one == number for name, one in state.items()} for number, kind in enumerate(KINDS)},
        zeros={name: found.of_layer(zeros, layer) for name, layer in named.items()},
        lowest={name: -_largest(lowest, layer) for name, layer in named.items()},
        threshold=threshold,
        statistics=found,
        at_sites=states,
    )


_NEEDED = (ActivationMean(), ActivationEnergy(), ActivationMaximum(), ActivationMinimum(), ZeroFraction())


def _state(site: str, sums: Mapping[str, Tensor], samples: int, threshold: float) -> Tensor:
    """float64[units]: the number of the kind of every unit seen at one site."""
    mean, energy, high, low = sums["mean"] / samples, sums["energy"] / samples, sums["maximum"], sums["minimum"]
    bad = int((~(high.isfinite() & low.isfinite())).sum())
    if bad:
        raise SparsewoodError(
            f"dead_units: {bad} of {len(high)} units seen at {site!r} have activations that are NaN or infinite. Look "
            "for such weights or inputs."
        )
    largest = torch.maximum(high.abs(), low.abs())
    deviation = (energy - mean.square()).clamp_min(0).sqrt()
    state = torch.where(deviation <= threshold * mean.abs(), SATURATED, OTHER)
    state = torch.where(high - low <= ROUNDING * largest, CONSTANT, state)
    return torch.where(largest == 0, DEAD, state).double()


def _largest(values: Mapping[str, Tensor], layer: Layer) -> Tensor:
    """float64[units of the layer]: the largest of all sites where a unit is seen, NaN if there is none."""
    found = torch.full((len(layer),), -torch.inf, dtype=torch.float64)
    for name, columns in zip(layer.sites, layer.columns, strict=True):
        here = torch.from_numpy(columns)
        found = torch.where(here >= 0, torch.maximum(found, values[name][here.clamp_min(0)]), found)
    return torch.where(found.isinf(), torch.nan, found)
