"""One pass over data: statistics of the units of a network, joined over batches and over processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparsewood.batches import count_examples, prepared, require_batches, split_batch
from sparsewood.distributed import world
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.inputs import refuse_sum
from sparsewood.parameters import entries
from sparsewood.snapshot import kernels_with_backward, same_random_state, untouched
from sparsewood.statistics import Loss, Statistic
from sparsewood.statistics import collect as collect_of_parameters
from sparsewood.statistics.collect import gradients_enabled, loss_value, require_loss
from sparsewood.structure import Structure
from sparsewood.types import Statistics
from sparsewood.units.chosen import chosen_sites
from sparsewood.units.kinds import UnitStatistic
from sparsewood.units.observing import Watch
from sparsewood.units.seen import Seen
from sparsewood.units.sites import Layer, Site, find_layers, sites_of_groups
from sparsewood.units.tracing import structure_of

__all__ = ["UnitStatistics", "collect", "collect_units", "reduce_unit_statistics"]


@dataclass(frozen=True, eq=False)
class UnitStatistics:
    """Statistics of units, and of how many examples: a monoid under `+`.

    `sums[kind][site]` is what `statistics[kind]` collected at a site; see `kinds`. `skipped` names sites at which
    nothing could be collected, and why.
    """

    sums: Mapping[str, Mapping[str, Tensor]]
    samples: int
    statistics: Mapping[str, UnitStatistic] = field(repr=False)
    structure: Structure = field(repr=False)
    sites: Mapping[str, Site] = field(repr=False)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: UnitStatistics) -> UnitStatistics:
        layout = {kind: {name: one.shape for name, one in of.items()} for kind, of in self.sums.items()}
        if layout != {kind: {name: one.shape for name, one in of.items()} for kind, of in other.sums.items()}:
            raise SparsewoodError("Only statistics of the same kinds at the same sites can be added.")
        total = {
            kind: {name: self.statistics[kind].join(one, other.sums[kind][name]) for name, one in of.items()}
            for kind, of in self.sums.items()
        }
        return UnitStatistics(
            total, self.samples + other.samples, self.statistics, self.structure, self.sites, self.skipped
        )

    def at(self, statistic: UnitStatistic, site: str) -> Tensor:
        """What was collected at one site; raises `UnknownName` if nothing was."""
        if statistic.kind not in self.sums:
            raise UnknownName.among("statistic", statistic.kind, self.sums)
        if site not in self.sums[statistic.kind]:
            raise UnknownName.among("site", site, self.sums[statistic.kind])
        return self.sums[statistic.kind][site]

    def layers(self) -> dict[str, Layer]:
        """The layers whose units were seen, by name."""
        return find_layers(self.structure, [self.sites[name] for name in self._seen])

    def of_layer(self, values: Mapping[str, Tensor], layer: Layer) -> Tensor:
        """float64[units of the layer] from a number for each unit of every site: the mean over the layer's sites.

        Units that were seen nowhere get NaN.
        """
        total, count = torch.zeros(len(layer), dtype=torch.float64), torch.zeros(len(layer))
        for name, columns in zip(layer.sites, layer.columns, strict=True):
            here = torch.from_numpy(columns)
            found = values[name].cpu()[here.clamp_min(0)]
            total += torch.where(here >= 0, found, 0.0)
            count += here >= 0
        return total / torch.where(count > 0, count, torch.nan)

    def strongest(self, numbers: Mapping[str, Tensor], by: Mapping[str, Tensor], layer: Layer) -> Tensor:
        """int64[units of the layer]: of the numbers at the layer's sites the one where `by` is largest; else -1."""
        best = torch.full((len(layer),), -torch.inf, dtype=torch.float64)
        number = torch.full((len(layer),), -1, dtype=torch.int64)
        for name, columns in zip(layer.sites, layer.columns, strict=True):
            here = torch.from_numpy(columns)
            value, found = (of[name].cpu()[here.clamp_min(0)] for of in (by, numbers))
            better = (here >= 0) & (value > best)
            best, number = torch.where(better, value, best), torch.where(better, found.long(), number)
        return number

    def of_groups(self, values: Mapping[str, Tensor], combine: str = "mean") -> dict[str, Tensor]:
        """For every removable group that was seen float64[units], from a number for each unit of every site.

        A unit that is seen at several sites has their mean, their sum or their maximum. A group of which a unit is seen
        nowhere is left out.
        """
        found = {}
        for name, sites in sites_of_groups(self.structure, [self.sites[one] for one in self._seen]).items():
            number = next(i for i, group in enumerate(self.structure.groups) if group.name == name)
            seen = torch.zeros(self.structure.groups[number].units, dtype=torch.bool)
            rows = torch.full((len(sites), self.structure.groups[number].units), torch.nan, dtype=torch.float64)
            for row, site in zip(rows, sites, strict=True):
                columns = torch.from_numpy(site.of_group(number))
                units = torch.from_numpy(site.units)[columns]
                row[units], seen[units] = values[site.name].cpu()[columns], True
            if bool(seen.all()):
                found[name] = _COMBINED[combine](rows)
        return found

    @property
    def _seen(self) -> list[str]:
        return list(next(iter(self.sums.values()), {}))


def _largest(rows: Tensor) -> Tensor:
    return rows.nan_to_num(nan=-torch.inf).amax(0)


_COMBINED = {"mean": lambda rows: rows.nanmean(0), "sum": lambda rows: rows.nansum(0), "max": _largest}


def collect_units(
    model: nn.Module,
    data: Iterable[Any],
    statistics: Sequence[UnitStatistic],
    loss: Loss | None = None,
    *,
    structure: Structure | None = None,
    sites: Sequence[Site] | None = None,
    layers: str | Sequence[str] | None = None,
) -> UnitStatistics:
    """Statistics of every unit of a network over `data`, which is read once: one forward for each batch.

    However many layers there are, the model runs once on each batch (and once backward, for statistics of gradients),
    and what is kept are numbers for units, not activations. The result does not depend on how the data are cut into
    batches, up to rounding.

    Args:
        data: batches as `collect` takes them; the first axis counts examples.
        loss: `loss(output, target)`, the mean over the batch's examples; needed for gradients.
        structure: of the model; without it the model is traced on the first batch.
        sites: the places to look at, all by default.
        layers: instead of sites, names of layers or patterns (see `chosen.chosen_sites`).

    The model runs in eval mode and is left as it was. Raises `SparsewoodError` for data that is empty or not batches,
    and for a loss that is missing, not a scalar, NaN or detached; `UnknownName` for no layer's name.

    >>> from sparsewood.units.kinds import ActivationMean
    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> found = collect_units(net, [torch.tensor([[1.0], [3.0]])], [ActivationMean()])
    >>> found.sums["mean"]["1"], found.samples
    (tensor([4., 0.], dtype=torch.float64), 2)
    """
    _require(statistics)
    require_batches(data)
    refuse_sum(loss)
    if sites is not None and layers is not None:
        raise SparsewoodError("Say where to look by sites or by layers, not by both.")
    if any(one.gradient for one in statistics):
        require_loss(loss)
    with same_random_state(model):
        batches = iter(data)
        if structure is None:
            first = next(batches, None)
            if first is None:
                raise _no_data()
            structure = structure_of(model, _inputs(first, model))
            batches = _chained(first, batches)
        sites = chosen_sites(structure, layers) if sites is None else tuple(sites)
        return _Pass(model, structure, sites, statistics, loss).over(batches)


def collect(
    model: nn.Module,
    data: Iterable[Any],
    statistics: Sequence[Statistic] | Sequence[UnitStatistic],
    loss: Loss | None = None,
    *,
    names: Sequence[str] | None = None,
    structure: Structure | None = None,
) -> Statistics | UnitStatistics:
    """Sum statistics over data, which is read once: of parameters (`statistics`), or of units (`units`).

    `names` are the parameters to observe, for the first kind (see `statistics.collect`); `structure` that of the model,
    for the second (see `units.collect_units`).

    Raises `SparsewoodError` if both kinds are mixed, and as these two do.
    """
    if not isinstance(statistics, Sequence) or not any(isinstance(one, UnitStatistic) for one in statistics):
        return collect_of_parameters(model, data, cast("Sequence[Statistic]", statistics), loss, names=names)
    if not all(isinstance(one, UnitStatistic) for one in statistics) or names is not None:
        raise SparsewoodError(
            "Statistics of units and of parameters come from passes of their own: collect them one after the other "
            "('names' are of parameters)."
        )
    return collect_units(model, data, cast("Sequence[UnitStatistic]", statistics), loss, structure=structure)


def _chained(first: Any, rest: Iterable[Any]) -> Iterable[Any]:
    yield first
    yield from rest


def _inputs(batch: Any, model: nn.Module) -> Any:
    return split_batch(prepared(batch, model))[0]


def _no_data() -> SparsewoodError:
    return SparsewoodError("The data is empty: no batch was read. A generator that was used up before is empty too.")


def nothing_seen(skipped: Mapping[str, str]) -> SparsewoodError:
    """What to raise if every site was left out."""
    why = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:4])
    return SparsewoodError(
        f"No unit was seen, every layer was left out. {why}. What counts the examples of a batch is the first axis of "
        "its target, or else of its inputs."
    )


def _require(statistics: object) -> None:
    if (
        not isinstance(statistics, Sequence)
        or not statistics
        or not all(isinstance(one, UnitStatistic) for one in statistics)
    ):
        raise SparsewoodError(
            f"statistics must be a list such as [ActivationMean(), ZeroFraction()]. Got {statistics!r}."
        )


class _Pass:
    """One pass over data."""

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        sites: Sequence[Site],
        statistics: Sequence[UnitStatistic],
        loss: Loss | None,
    ) -> None:
        self.model, self.structure, self.sites, self.loss = model, structure, sites, loss
        self.statistics = {one.kind: one for one in statistics}
        self.forward = [one for one in self.statistics.values() if not one.gradient]
        self.backward = [one for one in self.statistics.values() if one.gradient]
        self.sums: dict[str, dict[str, Tensor]] = {kind: {} for kind in self.statistics}

    def over(self, batches: Iterable[Any]) -> UnitStatistics:
        samples = 0
        chosen = [entry for entry in entries(self.model) if entry.parameter.is_floating_point()]
        grad = gradients_enabled(chosen) if self.backward else nullcontext()
        quiet = torch.set_grad_enabled(bool(self.backward))
        watch = Watch(self.model, self.sites)
        with untouched(self.model), grad, kernels_with_backward(self.model), quiet, watch:
            for number, batch in enumerate(batches):
                samples += self._batch(watch, prepared(batch, self.model), number, samples)
        if not samples:
            raise _no_data()
        seen = [site.name for site in self.sites if site.name not in watch.skipped]
        in_order = {kind: {name: of[name] for name in seen if name in of} for kind, of in self.sums.items()}
        if not any(in_order.values()):
            raise nothing_seen(watch.skipped)
        by_name = {site.name: site for site in self.sites}
        return UnitStatistics(in_order, samples, self.statistics, self.structure, by_name, watch.skipped)

    def _batch(self, watch: Watch, batch: Any, number: int, first: int) -> int:
        inputs, target = split_batch(batch, number)
        examples = count_examples(inputs, target, number)
        if examples == 0:
            raise SparsewoodError(f"Batch {number} is empty: its first axis, which counts examples, is 0 long.")
        about = {"target": target, "first": first}
        output = watch.run(inputs, examples, self._see, gradients=bool(self.backward), **about)
        if self.backward:
            self._go_back(output, target, number)
            watch.unreached()
        return examples

    def _go_back(self, output: Any, target: Any, number: int) -> None:
        assert self.loss is not None
        value = loss_value(self.loss, output, target, number)
        needing = [p for p in self.model.parameters() if p.requires_grad]
        torch.autograd.grad(value, needing, allow_unused=True)

    def _see(self, seen: Seen) -> None:
        for one in (*self.forward, *(self.backward if seen.gradient is not None else ())):
            found, of = one.of(seen), self.sums[one.kind]
            name = seen.site.name
            of[name] = one.join(of[name], found) if name in of else found


def reduce_unit_statistics(statistics: UnitStatistics) -> UnitStatistics:
    """The statistics of all processes together, the same in each; with one process `statistics` itself.

    Call it in every process, with statistics of this process's share of the data. Numbers of examples, as in
    `Extremes`, stay those of the process that has them.
    """
    if world() == 1:
        return statistics
    gathered: list[Any] = [None] * world()
    own = (
        {kind: {name: one.cpu() for name, one in of.items()} for kind, of in statistics.sums.items()},
        statistics.samples,
    )
    dist.all_gather_object(gathered, own)
    total: UnitStatistics | None = None
    for sums, samples in gathered:
        one = UnitStatistics(
            sums, samples, statistics.statistics, statistics.structure, statistics.sites, statistics.skipped
        )
        total = one if total is None else total + one
    assert total is not None
    return total
