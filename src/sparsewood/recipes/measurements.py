"""The scores of mean replacement pruning, by layer, and decisions made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.parameters import entries
from sparsewood.selectors import select_layers
from sparsewood.shrinking.unit_masks import units_left
from sparsewood.statistics import Loss
from sparsewood.structure import Structure
from sparsewood.types import Masks
from sparsewood.units import (
    AbsoluteFirstOrder,
    AbsoluteMeanReplacement,
    ActivationEnergy,
    ActivationMean,
    FirstOrder,
    Layer,
    MeanGradient,
    UnitStatistics,
    collect_units,
    find_layers,
    find_sites,
)
from sparsewood.units.kinds import Space
from sparsewood.units.sites import Site

__all__ = [
    "SCORES",
    "PruningMeasurements",
    "create_binary_mask_from_scores",
    "get_pruning_measurements",
    "layers_of",
    "mask_and_broadcast",
    "masks_from_scores",
    "whole",
]

SCORES = ("norm", "rand", "rs", "abs_rs", "mrs", "abs_mrs")

ByLayer = Mapping[str, Tensor]


class PruningMeasurements(NamedTuple):
    """`scores[name][layer]` float64[units] for each of `SCORES`; mean activations, and mean squares of activations."""

    scores: Mapping[str, ByLayer]
    means: ByLayer
    l2norms: ByLayer


def get_pruning_measurements(
    model: nn.Module,
    data: Iterable[Any],
    layers: str | Sequence[str] = "all",
    *,
    loss: Loss,
    space: Space = "mean",
    structure: Structure | None = None,
    generator: torch.Generator | None = None,
) -> PruningMeasurements:
    """All scores of mean replacement pruning for the units of some layers, in two passes over the data.

    With a the activation, g the gradient of the example's own loss there, m the mean of a over all data, and the mean
    over examples of sums over places (divided by the number of places with space="mean", as the paper has it):

        rs = mean(-a g)          abs_rs = mean |sum a g|
        mrs = mean((m - a) g)    abs_mrs = mean |sum (m - a) g|
        norm = mean square of the weights that make the unit          rand = U[0, 1) from `generator`

    Units with the lowest scores go first. m is the mean of all data, so that nothing depends on how they are cut.

    Args:
        data: batches that can be read twice: a list or a DataLoader.
        layers: as `select_layers` takes them: "all", "firstconv", "midconv", "lastconv", "firstdense", names.

    Raises `SparsewoodError` for data that are a generator, and for layers whose units are seen nowhere.

    Of a layer that is called several times a unit has the sum of what its calls have, with space="mean" their mean.

    Source: Evci et al. 2018, "Mean Replacement Pruning", https://openreview.net/forum?id=BJxRVnC5Fm.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> data = [(torch.ones(4, 2), torch.tensor([0, 1, 1, 0]))]
    >>> found = get_pruning_measurements(net, data, loss=nn.functional.cross_entropy)
    >>> sorted(found.scores), list(found.scores["abs_mrs"]), found.means["0"].shape
    (['abs_mrs', 'abs_rs', 'mrs', 'norm', 'rand', 'rs'], ['0'], torch.Size([3]))
    """
    if iter(data) is data:
        raise SparsewoodError(
            "get_pruning_measurements reads the data twice, first for the means: pass a list or a DataLoader."
        )
    kinds = (ActivationMean(), ActivationEnergy(), FirstOrder(space), AbsoluteFirstOrder(space), MeanGradient(space))
    found = collect_units(model, data, kinds, loss, structure=structure)
    mean, energy, removed, absolute, gradient = (_means(found, kind.kind) for kind in kinds)
    chosen = layers_of(model, found.structure, layers, [found.sites[name] for name in mean])
    kind = AbsoluteMeanReplacement(mean, space)
    sites = [found.sites[name] for name in dict.fromkeys(s for one in chosen.values() for s in one.sites)]
    replaced = _means(collect_units(model, data, [kind], loss, structure=found.structure, sites=sites), kind.kind)
    generator = generator or torch.Generator().manual_seed(0)
    at_sites = {
        "rs": removed,
        "abs_rs": absolute,
        "mrs": {name: removed[name] + mean[name] * gradient[name] for name in removed},
        "abs_mrs": replaced,
    }
    scores: dict[str, ByLayer] = {
        "norm": {name: _mean_square(model, found.structure, one) for name, one in chosen.items()},
        "rand": {n: torch.rand(len(o), generator=generator, dtype=torch.float64) for n, o in chosen.items()},
    }
    for name, values in at_sites.items():
        scores[name] = {layer: _of_calls(found, values, one, space) for layer, one in chosen.items()}
    return PruningMeasurements(
        {name: scores[name] for name in SCORES},
        {name: found.of_layer(mean, one) for name, one in chosen.items()},
        {name: found.of_layer(energy, one) for name, one in chosen.items()},
    )


def layers_of(
    model: nn.Module, structure: Structure, layers: str | Sequence[str], sites: Sequence[Site] | None = None
) -> dict[str, Layer]:
    """The layers that are meant, as far as their units are seen (at `sites`); see `selectors.select_layers`.

    Raises `SparsewoodError` if of a layer that is named no unit is seen.
    """
    known = find_layers(structure, find_sites(structure) if sites is None else sites)
    names = select_layers(model, layers)
    missing = [name for name in names if name not in known]
    if missing and (layers != "all" or len(missing) == len(names)):
        raise SparsewoodError(
            f"No unit of {', '.join(missing)} can be seen and removed. "
            f"print(structure.explain({missing[0]!r})) says why; layers with such units: {', '.join(known)}."
        )
    return {name: known[name] for name in names if name in known}


def _means(found: UnitStatistics, kind: str) -> dict[str, Tensor]:
    return {name: sums.cpu() / found.samples for name, sums in found.sums[kind].items()}


def _of_calls(found: UnitStatistics, values: Mapping[str, Tensor], layer: Layer, space: Space) -> Tensor:
    """float64[units of the layer]: like places, the sites at which a unit is seen are summed or averaged."""
    mean = found.of_layer(values, layer)
    return mean if space == "mean" else mean * torch.from_numpy(sum(columns >= 0 for columns in layer.columns))


def _mean_square(model: nn.Module, structure: Structure, layer: Layer) -> Tensor:
    """float64[units]: the mean square of the weights that make each unit."""
    entry = next(one for one in entries(model) if layer.producer in (one.name, *one.aliases))
    axis = 1 if entry.inputs_first else 0
    squares = entry.parameter.detach().double().cpu().square().movedim(axis, 0).flatten(1).mean(1)
    if len(squares) == len(layer):
        return squares
    total, count = torch.zeros(len(layer), dtype=torch.float64), torch.zeros(len(layer))
    place = {pair: number for number, pair in enumerate(zip(layer.groups.tolist(), layer.units.tolist(), strict=True))}
    for number, group in enumerate(structure.groups):
        for one in group.slices:
            if one.param == layer.producer and one.axis == axis:
                for row, unit in enumerate(one.owner.tolist()):
                    if (number, unit) in place:
                        total[place[number, unit]] += squares[row]
                        count[place[number, unit]] += 1
    return total / count.clamp_min(1)


# ---------------------------------------------------------------- decisions


def create_binary_mask_from_scores(
    scores: Tensor, *, fraction: float | None = None, n_zeros: int | None = None
) -> Tensor:
    """1 where a score stays, 0 for the lowest: float32 of the scores' shape.

    Of N scores floor(fraction * N) go, or exactly `n_zeros`; one of the two must be given. Of equal scores those with
    the lower index stay.

    >>> create_binary_mask_from_scores(torch.tensor([4.0, 3.0, 2.0, 1.0]), fraction=0.5)
    tensor([1., 1., 0., 0.])
    """
    if (fraction is None) == (n_zeros is None):
        raise SparsewoodError("create_binary_mask_from_scores takes fraction or n_zeros, one of the two.")
    size = scores.numel()
    if fraction is not None and not 0 <= fraction <= 1:
        raise SparsewoodError(f"'fraction' must be a number in [0, 1]. Got {fraction!r}.")
    zeros = whole(fraction * size) if fraction is not None else n_zeros
    if isinstance(zeros, bool) or not isinstance(zeros, int) or not 0 <= zeros <= size:
        raise SparsewoodError(f"'n_zeros' must be a whole number from 0 to {size}. Got {n_zeros!r}.")
    if bool(scores.isnan().any()):
        raise SparsewoodError(f"{int(scores.isnan().sum())} of {size} scores are NaN: they mean nothing.")
    order = scores.flatten().sort(descending=True, stable=True).indices
    mask = torch.ones(size)
    mask[order[size - zeros :].cpu()] = 0.0
    return mask.reshape(scores.shape).to(scores.device)


def whole(number: float) -> int:
    """The whole number that is not above `number`, as it is meant: 0.29 * 100 is a little less in floating point.

    >>> whole(0.29 * 100), int(0.29 * 100), whole(28.99)
    (29, 28, 28)
    """
    return int(number + 1e-9)


def mask_and_broadcast(mask: Tensor, values: Tensor, shape: Sequence[int], *, invert: bool = False) -> Tensor:
    """mask * values, or (1 - mask) * values, broadcast to `shape`, along whose last axis they lie.

    >>> mask_and_broadcast(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 4.0]), (2, 2), invert=True)
    tensor([[3., 0.],
            [3., 0.]])
    """
    chosen = (1 - mask if invert else mask) * values
    try:
        return chosen.broadcast_to(tuple(shape))
    except RuntimeError as error:
        raise SparsewoodError(f"{tuple(chosen.shape)} cannot be broadcast to {tuple(shape)}: {error}.") from error


def masks_from_scores(
    structure: Structure,
    scores: ByLayer,
    amounts: Mapping[str, float | int],
    *,
    masks: Mapping[str, Tensor] | None = None,
) -> tuple[Masks, dict[str, np.ndarray]]:
    """Masks of whole units by scores of layers: of each layer the lowest go, floor(fraction * N) or a count of them.

    Units that earlier `masks` removed stay removed and count; of a unit that several layers make, each decides. Units
    that cannot be removed stay. Returns the masks together with the earlier ones, and bool[units] for each group that
    loses any, True = stays: what mean replacement takes.

    Raises `UnknownName` for layers without scores, and `SparsewoodError` if nothing would be left of a group.

    >>> from sparsewood import trace
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> scores = {"0": torch.tensor([3.0, 1.0, 2.0])}
    >>> masks, keep = masks_from_scores(trace(net, torch.ones(1, 2)), scores, {"0": 1})
    >>> keep["0"].tolist(), masks["0.bias"].tolist()
    ([True, False, True], [True, False, True])
    """
    known = find_layers(structure, find_sites(structure))
    left = units_left(structure, masks or {})
    keep = {name: alive.copy() for name, alive in left.items()}
    for name, amount in amounts.items():
        if name not in scores or name not in known:
            raise UnknownName.among("layer with scores", name, [one for one in scores if one in known])
        layer, values = known[name], torch.as_tensor(scores[name]).double().clone()
        if values.shape != (len(layer),):
            raise SparsewoodError(f"{name} has {len(layer)} units. Got scores of shape {tuple(values.shape)}.")
        for unit, (group, number) in enumerate(zip(layer.groups.tolist(), layer.units.tolist(), strict=True)):
            if group < 0:
                values[unit] = torch.inf  # it stays
            elif not left[structure.groups[group].name][number]:
                values[unit] = -torch.inf  # it is gone
        how_much = {"fraction": amount} if isinstance(amount, float) else {"n_zeros": amount}
        stays = create_binary_mask_from_scores(values, **how_much) > 0  # type: ignore[arg-type]
        removable = torch.from_numpy(layer.groups >= 0)
        if bool((~stays & ~removable).any()):
            raise SparsewoodError(f"{name}: {amount} is more than its {int(removable.sum())} units that can go.")
        for unit in torch.nonzero(~stays).flatten().tolist():
            keep[structure.groups[int(layer.groups[unit])].name][int(layer.units[unit])] = False
    changed = {name: stays for name, stays in keep.items() if not stays.all()}
    earlier = Masks({name: mask for name, mask in (masks or {}).items()})
    return earlier & structure.to_masks(changed), changed
