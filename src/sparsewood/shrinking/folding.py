"""What removed units add to the layers that read them, moved into the biases of these layers.

A layer reads its units linearly. So it returns the sum of what the kept and what the removed units add to it, and the
second part can be replaced by a number for each output:

    bias' = bias + mean over samples and positions of W[:, removed] x[removed]

Every layer is measured where it reads the units, so branches and shortcuts need no special care. The means are those
of the network as it was given, before anything is removed: they depend on the set of removed units, not on an order.

At zero-padded borders a convolution adds less than in the interior. The mean is taken over all positions, borders
included: the mean of what the layer returns then stays exactly what it was. Units that are constant whatever the input
are folded exactly: at borders one unit stays and carries the others (see `carriers`), or they all stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsewood.parameters import entries
from sparsewood.shrinking.carriers import let_carry
from sparsewood.shrinking.consumers import Chosen, Consumer, Unreadable, find_consumers, positions
from sparsewood.shrinking.observing import Tally, measure, silent_units
from sparsewood.shrinking.plan import Keep
from sparsewood.structure import Structure

__all__ = ["Folded", "constant_units", "fold_constants", "fold_means", "joined"]


@dataclass(frozen=True, eq=False)
class Folded:
    """What folding changed.

    `biases` are the names of biases that changed, `added` those among them that the layers did not have (a module
    with several names gives each). `spread` says for each weight that reads removed units how far what they add to
    one output varies over samples and positions: largest less smallest; 0 if a number stands for it exactly.
    `skipped` names weights that read removed units where nothing was folded, and why.

    `borders` are units, by group, that must not be removed although `keep` asked for it, for the function to stay the
    same. `carriers` says which of them have taken over others: their entries in the next weights have changed.
    """

    biases: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    spread: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    borders: Mapping[str, np.ndarray] = field(default_factory=dict)
    carriers: Mapping[str, int] = field(default_factory=dict)


def constant_units(reference: nn.Module, structure: Structure) -> dict[str, np.ndarray]:
    """Which units are the same number whatever the input: for every removable group bool[units].

    Those of which all entries of parameters with two axes or more, where the unit is made, are 0. Biases, scales and
    shifts may be anything. (Where a normalisation over units follows, the unit need not be constant behind it: folding
    measures that.) A group without such parameters has no constant units.
    """
    values = {entry.name: entry.parameter.detach() for entry in entries(reference)}
    found = {}
    for group in structure.prunable:
        makers = [one for one in group.slices if one.role != "in" and values.get(one.param, _NONE).dim() >= 2]
        constant = np.full(group.units, bool(makers))
        for one in makers:
            weight = values[one.param].movedim(one.axis, 0)
            made = (weight[(..., *[0] * (weight.dim() - 1))] != 0).cpu().numpy()  # most show at the first entry
            rest = torch.from_numpy(np.flatnonzero(~made)).to(weight.device)
            made[~made] = (weight.index_select(0, rest).flatten(1) != 0).any(1).cpu().numpy()
            constant[one.owner[made & (one.owner >= 0)]] = False
        found[group.name] = constant
    return found


_NONE = torch.zeros(())


def fold_means(reference: nn.Module, structure: Structure, keep: Keep, batches: Iterable[Any]) -> Folded:
    """Replace what removed units add to the layers that read them by its mean, in place: mean replacement.

    `batches` are model inputs (tensors, tuples or dicts), read once. Every position of every sample counts the same,
    however the data are cut into batches. The model runs in eval mode. The removed units themselves stay as they are:
    who calls removes them, and everything that reads them, afterwards. Layers without a bias get one.

    Raises `SparsewoodError` if there is no batch.
    Source: Evci et al. 2018, "Mean Replacement Pruning", https://openreview.net/forum?id=BJxRVnC5Fm.

    >>> from sparsewood import trace
    >>> model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1, bias=False))
    >>> _ = [nn.init.ones_(p) for p in model.parameters()]
    >>> structure = trace(model, torch.zeros(1, 1))
    >>> keep = {"0": np.array([True, False])}
    >>> fold_means(model, structure, keep, [torch.tensor([[1.0], [3.0]])]).added
    ('1.bias',)
    >>> model[1].bias
    Parameter containing:
    tensor([3.], requires_grad=True)
    """
    removed = _removed(keep)
    consumers, unreadable = find_consumers(reference, structure, removed)
    tallies, failed = _measured(reference, structure, dict.fromkeys(consumers, removed), batches)
    return _moved(reference, structure, removed, tallies, [*unreadable, *failed])


def fold_constants(
    reference: nn.Module,
    structure: Structure,
    keep: Keep,
    batches: Iterable[Any],
    *,
    carriers: bool = True,
    tolerance: float | None = None,
) -> Folded:
    """Move constants of removed units into the layers that read them, in place, so that the function stays the same.

    Only units that `constant_units` finds are folded. `batches` are model inputs; they show where a constant is not
    the same at all positions. Units for which that is so, or which are read where nothing can be folded, are in
    `borders` of the result: they have to stay. Not seen is what reads units without a weight, as a sum over channels.

    Args:
        carriers: whether one such unit may stay and take over the others, so that these can go.
        tolerance: how much what a unit adds may vary to count as constant, relative to the largest input of the layer
            times the largest sum of |weights| of an output; 64 times the precision of the weight's dtype by default.
    """
    removed = _removed(keep)
    constants = constant_units(reference, structure)
    chosen = _less({name: units & constants[name] for name, units in removed.items() if name in constants}, {})
    consumers, unreadable = find_consumers(reference, structure, chosen)
    if not consumers and not unreadable:
        return Folded()
    batches = list(batches)
    tallies, failed = _measured(reference, structure, dict.fromkeys(consumers, chosen), batches)
    unreadable += failed
    even = partial(_is_even, structure=structure, removed=removed, tolerance=tolerance)
    wide = {one: chosen for one, tally in tallies.items() if not even(one, tally)}
    uneven = _uneven(reference, structure, wide, batches, even)
    stay = _audible(reference, structure, unreadable, chosen, batches)
    carrying, alone = dict[str, int](), joined(uneven.values())
    if carriers:
        riding = {one: _less(units, stay) for one, units in uneven.items()}
        carrying, alone = let_carry(reference, structure, riding, batches)
    stay = joined([stay, alone])
    parts = {one: _less(chosen, joined([stay, uneven.get(one, {})])) for one in tallies}
    tallies, failed = _measured(reference, structure, parts, batches)
    folded = _moved(reference, structure, removed, tallies, [*unreadable, *failed])
    return replace(folded, borders=stay, carriers=carrying)


# ---------------------------------------------------------------- sets of units


def _removed(keep: Keep) -> dict[str, np.ndarray]:
    return _less({name: ~np.asarray(stays, bool) for name, stays in keep.items()}, {})


def _less(chosen: Chosen, others: Chosen) -> dict[str, np.ndarray]:
    """The chosen units that are not among others, in the groups that have any."""
    left = {name: units & ~others[name] if name in others else units for name, units in chosen.items()}
    return {name: units for name, units in left.items() if units.any()}


def joined(sets: Iterable[Chosen]) -> dict[str, np.ndarray]:
    """The units that are in any of the sets."""
    found: dict[str, np.ndarray] = {}
    for one in sets:
        for name, units in one.items():
            found[name] = found[name] | units if name in found else units
    return found


# ---------------------------------------------------------------- what they add


def _measured(
    model: nn.Module, structure: Structure, parts: Mapping[Consumer, Chosen], batches: Iterable[Any]
) -> tuple[dict[Consumer, Tally], list[Unreadable]]:
    """What the units chosen for each consumer add to its outputs, and which consumers cannot be measured."""
    wanted = {one: [positions(structure, one.weight, one.axis, chosen)] for one, chosen in parts.items()}
    wanted = {one: part for one, part in wanted.items() if part[0].any()}
    tallies, failed = measure(model, wanted, batches) if wanted else ({}, {})
    return {one: found for one, (found,) in tallies.items()}, _as_unreadable(failed)


def _as_unreadable(failed: Mapping[Consumer, str]) -> list[Unreadable]:
    return [Unreadable(str(one), one.weight, one.axis, why) for one, why in failed.items()]


def _is_even(
    consumer: Consumer, tally: Tally, *, structure: Structure, removed: Chosen, tolerance: float | None
) -> bool:
    """Whether what is added to outputs that stay is one number for each of them.

    Behind zero padding only 0 is, however few positions the inputs show.
    """
    weight = consumer.value
    limit = 64 * torch.finfo(weight.dtype).eps if tolerance is None else tolerance
    largest = float(weight.abs().movedim(1 - min(consumer.axis, 1), 0).flatten(1).sum(1).max())
    varies = np.maximum(tally.spread, np.abs(tally.mean)) if consumer.pads else tally.spread
    return bool((varies[consumer.staying(structure, removed)] <= limit * largest * tally.inputs).all())


def _uneven(
    model: nn.Module,
    structure: Structure,
    wide: Mapping[Consumer, Chosen],
    batches: Iterable[Any],
    even: Callable[[Consumer, Tally], bool],
) -> dict[Consumer, dict[str, np.ndarray]]:
    """For each consumer, which of the units chosen for it are not even by themselves."""
    units = {one: list(_single(structure, one, chosen)) for one, chosen in wide.items()}
    wanted = {one: [positions(structure, one.weight, one.axis, unit) for unit in found] for one, found in units.items()}
    tallies = measure(model, wanted, batches)[0] if wanted else {}
    return {
        one: joined(unit for unit, tally in zip(units[one], found, strict=True) if not even(one, tally))
        for one, found in tallies.items()
    }


def _single(structure: Structure, consumer: Consumer, chosen: Chosen) -> Iterator[Chosen]:
    """Each of the chosen units that a consumer reads, by itself."""
    for name, units in chosen.items():
        for unit in np.flatnonzero(units):
            alone = {name: np.arange(len(units)) == unit}
            if positions(structure, consumer.weight, consumer.axis, alone).any():
                yield alone


def _audible(
    model: nn.Module, structure: Structure, unreadable: Sequence[Unreadable], chosen: Chosen, batches: Sequence[Any]
) -> dict[str, np.ndarray]:
    """The chosen units that are not 0 and are read where nothing can be folded."""
    found: dict[str, np.ndarray] = {}
    for name, units in chosen.items():
        group = structure.group(name)
        places = {(one.weight, one.axis) for one in unreadable}
        here = [one.owner for one in group.slices if (one.param, one.axis) in places]
        if here:
            read = np.isin(np.arange(group.units), np.concatenate(here))
            found[name] = units & read & ~silent_units(model, group, batches)
    return _less(found, {})


# ---------------------------------------------------------------- into the biases


def _moved(
    model: nn.Module,
    structure: Structure,
    removed: Chosen,
    tallies: Mapping[Consumer, Tally],
    unreadable: Sequence[Unreadable],
) -> Folded:
    """Add the means to the biases."""
    biases: list[str] = []
    added: list[str] = []
    spread: dict[str, float] = {}
    for one, tally in tallies.items():
        stays = one.staying(structure, removed)
        spread[str(one)] = float(tally.spread[stays].max(initial=0.0))
        if not tally.mean[stays].any():
            continue
        if getattr(one.holder, one.bias) is None:
            value = one.value
            bias = nn.Parameter(value.new_zeros(one.entries), requires_grad=getattr(one.holder, one.leaf).requires_grad)
            one.holder.register_parameter(one.bias, bias)
            added += [name for name, value in model.named_parameters(remove_duplicate=False) if value is bias]
        biases.append(one.bias_name)
        with torch.no_grad():
            bias = getattr(one.holder, one.bias)
            bias[one.offset : one.offset + one.outputs] += torch.from_numpy(tally.mean).to(bias)
    skipped = {one.name: one.why for one in unreadable}
    return Folded(tuple(dict.fromkeys(biases)), tuple(added), spread, skipped)
