"""Pruning by masks of whole units: everything that belongs to a unit goes at once, wherever it lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.allocation.scopes import Amounts, Everywhere, Scope
from sparsewood.criteria import Criterion, Magnitude
from sparsewood.errors import SparsewoodError, require_model
from sparsewood.masks import apply_masks, not_held
from sparsewood.masks.apply import resolve
from sparsewood.parameters import Selectors
from sparsewood.pruning import Pruning
from sparsewood.pruning.api import earlier_masks
from sparsewood.pruning.settings import SELECTIONS, Select
from sparsewood.schedules import Event
from sparsewood.shrinking.choice import Chooser, UnitScores
from sparsewood.statistics import Loss
from sparsewood.structure import Group, Slice, Structure, trace
from sparsewood.types import AmountLike, Masks, Threshold
from sparsewood.units.sites import find_layers, find_sites

__all__ = ["Measured", "choose_units", "prune_units", "removed_units", "units_left"]

NOT_INCLUDED = "it is not included"


def prune_units(
    model: nn.Module,
    example_inputs: Any,
    criterion: Criterion | UnitScores = Magnitude(),
    sparsity: AmountLike | Amounts | None = None,
    *,
    scope: Scope | Amounts = Everywhere(),
    select: Select = "lowest",
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    masks: Mapping[str, Tensor] | None = None,
    include: Selectors | None = None,
    protect: Selectors = (),
    min_units: int = 1,
    normalize: bool | None = None,
    structure: Structure | None = None,
    generator: torch.Generator | None = None,
) -> Masks:
    """Choose which units stay, and mask the others everywhere. Pure: the model is not changed.

    A unit is what the structure of the network couples: a channel with its filter, its entries in normalisations and
    biases, and the inputs of whatever reads it, on both sides of shortcuts. Masked, it gives exactly 0 for any input
    (where a sigmoid makes 0.5 of 0, nothing reads it), as if it had been removed: `shrink(model, inputs, masks=...)`
    then removes it.

    Args:
        example_inputs: what the model is traced on; of no use where `structure` is given.
        criterion: scores of weights, combined for each unit, or of units.
        sparsity: how much goes of the units that can: a share (by default half), a count, another amount, or a mapping
            from layers to amounts. Totals count what earlier `masks` removed; `Remaining` is of the units left.
        scope: which units compete.
        select: which go, of the units that compete: the `lowest` scores, the `highest`, or from both ends (`hybrid`:
            of n units ceil(n / 2) the lowest and floor(n / 2) the highest, unless `min_units` stands in the way).
        data, loss: what the criterion reads.
        masks: earlier masks. Units that they silence stay removed; scores are of the network with these masks.
        include: only units that are made here may go; by default all. Names, patterns, module classes or modules.
        protect: units that are made here stay.
        min_units: how many units of every group stay at least.
        normalize: see `choice.Chooser`.
        structure: from `trace`, if it is at hand.
        generator: for random criteria; without one the same call gives the same masks.

    Returns masks of all parameters in which units went, and those given for others.

    The number that goes is exact. Of equal scores the one with the lower index counts as the higher. Raises
    `SparsewoodError` for what cannot be had exactly, with the reason.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 3.0], [1.0, 1.0], [2.0, 2.0]]))
    >>> _ = net[2].weight.data.fill_(1.0)
    >>> masks = prune_units(net, torch.ones(1, 2), sparsity=1)
    >>> {name: mask.int().tolist() for name, mask in masks.items()}
    {'0.weight': [[1, 1], [0, 0], [1, 1]], '0.bias': [1, 0, 1], '2.weight': [[1, 0, 1]]}
    >>> prune_units(net, torch.ones(1, 2), sparsity=1, select="highest")["0.bias"].int().tolist()
    [0, 1, 1]
    """
    require_model(model)
    if select not in SELECTIONS:
        raise SparsewoodError(f"select must be one of {', '.join(SELECTIONS)}. Got {select!r}.")
    if isinstance(sparsity, Threshold) and select != "lowest":
        raise SparsewoodError(f"{sparsity} removes what scores less, so select must be 'lowest'. Got {select!r}.")
    structure = trace(model, example_inputs) if structure is None else structure
    earlier = Masks.adopt(earlier_masks(model, masks))
    with _masked(model, earlier):
        chooser = Chooser(
            model, structure, criterion=criterion, scope=scope, amount=sparsity, data=data, loss=loss, protect=protect,
            min_units=min_units, normalize=normalize, generator=generator, alive=units_left(structure, earlier),
        )  # fmt: skip
    held = {} if include is None else _others(chooser, structure, include)
    keep = _ordered(chooser, held, ORDERS[select]).choose(held).keep
    return earlier & structure.to_masks(keep)


def choose_units(
    pruning: Pruning,
    model: nn.Module,
    structure: Structure,
    event: Event,
    masks: Mapping[str, Tensor],
    *,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    generator: torch.Generator | None = None,
    scores: Mapping[str, Tensor] | None = None,
) -> Masks:
    """The masks after an event of a pruning of coupled units: what `Pruning.choose` is for all other granularities.

    Of `data`, the first `score_batches` batches are read; a criterion that augments by itself gets all of it. `scores`
    stand for what the criterion would find, if that was measured before: float64[units] for groups by name.
    Raises as `prune_units` does.

    >>> from sparsewood.granularity import Coupled
    >>> from sparsewood.schedules import OneShot
    >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> half = Pruning(schedule=OneShot(0.5), granularity=Coupled())
    >>> choose_units(half, net, trace(net, torch.ones(1, 2)), half.plan[0], {})
    Masks(3 tensors, 8 of 16 removed, sparsity 0.5000)
    """
    layers = pruning.include if event.layers is None else event.layers
    return prune_units(
        model,
        None,
        pruning.criterion if scores is None else Measured(scores),
        None if pruning.fixes_amounts else event.amount,
        scope=pruning.scope,
        select=pruning.select,
        data=pruning.seen(data) if pruning.reads_data and scores is None else None,
        loss=loss,
        masks=masks,
        include=list(layers) or None,
        protect=list(pruning.exclude),
        min_units=pruning.min_units,
        structure=structure,
        generator=generator,
    )


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores of units that were measured before."""

    scores: Mapping[str, Tensor] = field(repr=False)

    def __call__(self, model: nn.Module, structure: Structure, **_: Any) -> Mapping[str, Tensor]:  # noqa: ARG002
        return self.scores


def units_left(structure: Structure, masks: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """For every removable group bool[units]: False for units that the masks silence.

    These are the units of which every entry is masked where they are made: weights, biases, scales and shifts. A
    parameter without a mask is kept.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> structure = trace(net, torch.ones(1, 2))
    >>> weight = torch.tensor([[True, False], [False, False], [True, True]])
    >>> units_left(structure, {"0.weight": weight})["0"].tolist()
    [True, True, True]
    >>> units_left(structure, {"0.weight": weight, "0.bias": torch.tensor([True, False, True])})["0"].tolist()
    [True, False, True]
    """
    return {group.name: _left(structure, group, masks) for group in structure.prunable}


def removed_units(
    structure: Structure, masks: Mapping[str, Tensor], before: Mapping[str, Tensor] | None = None
) -> dict[str, list[int]]:
    """Which units `masks` removed and `before` did not: for every layer their numbers, ascending.

    A layer is a weight that makes units (see `units.find_layers`), called by its module; number j is its j-th output.
    A unit that several layers make, as on both sides of a shortcut, is listed for each of them. Layers that lost
    nothing are left out.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> structure = trace(net, torch.ones(1, 2))
    >>> removed_units(structure, structure.to_masks({"0": [True, False, False]}))
    {'0': [1, 2]}
    """
    left, then = units_left(structure, masks), units_left(structure, before or {})
    found = {}
    for layer in find_layers(structure, find_sites(structure)).values():
        numbers = [
            j
            for j, (group, unit) in enumerate(zip(layer.groups.tolist(), layer.units.tolist(), strict=True))
            if group >= 0 and then[structure.groups[group].name][unit] and not left[structure.groups[group].name][unit]
        ]
        if numbers:
            found[layer.name] = numbers
    return found


# ---------------------------------------------------------------- which end


def _as_scored(scores: np.ndarray) -> np.ndarray:
    return scores


def _upside_down(scores: np.ndarray) -> np.ndarray:
    return -scores


def _from_both_ends(scores: np.ndarray) -> np.ndarray:
    """When each would go: the lowest first, then the highest, the second lowest, and so on inwards.

    >>> _from_both_ends(np.array([0.5, 0.1, 0.9, 0.3])).tolist()
    [3, 0, 1, 2]
    """
    order = np.argsort(-scores, kind="stable")[::-1]  # the lowest first; of equals the lower index is the higher
    place = np.argsort(order)
    return np.minimum(2 * place, 2 * (len(scores) - 1 - place) + 1)


ORDERS: Mapping[Select, Callable[[np.ndarray], np.ndarray]] = {
    "lowest": _as_scored,
    "highest": _upside_down,
    "hybrid": _from_both_ends,
}
"""From the scores of units that compete to numbers of which the lowest go."""


def _ordered(chooser: Chooser, held: Mapping[str, str], order: Callable[[np.ndarray], np.ndarray]) -> Chooser:
    """The chooser with what `order` makes of the scores of every pool; units that are gone take no part."""
    scores = dict(chooser.scores)
    for names in chooser.competing(held):
        pool = [chooser.scores[name] for name in names]
        together = torch.cat(pool)
        left = torch.isfinite(together)
        together[left] = torch.from_numpy(np.asarray(order(together[left].numpy()), np.float64))
        scores.update(zip(names, together.split([len(one) for one in pool]), strict=True))
    return chooser.with_scores(scores)


# ---------------------------------------------------------------- what is there


def _left(structure: Structure, group: Group, masks: Mapping[str, Tensor]) -> np.ndarray:
    left = np.zeros(group.units, bool)
    for one in _made(structure, group):
        there = np.ones(len(one.owner), bool)
        if one.param in masks:
            there = masks[one.param].movedim(one.axis, 0).reshape(len(one.owner), -1).any(1).cpu().numpy()
        left[one.owner[there & (one.owner >= 0)]] = True
    return left


def _made(structure: Structure, group: Group) -> list[Slice]:
    """Where the units are made; wherever they are, if nothing makes them."""
    slices = [one for one in group.slices if one.param in structure.record.parameters]
    return [one for one in slices if one.role != "in"] or slices


def _others(chooser: Chooser, structure: Structure, include: Selectors) -> dict[str, str]:
    meant = {group.name for group in chooser.made_in(include, "include")}
    if not meant:
        raise SparsewoodError(
            f"include={include!r} means no unit that can be removed: none is made there. "
            "print(sparsewood.trace(model, inputs)) says which there are, and why others stay."
        )
    return {group.name: NOT_INCLUDED for group in structure.prunable if group.name not in meant}


@contextmanager
def _masked(model: nn.Module, masks: Masks) -> Iterator[None]:
    """The model with the masks applied; afterwards its parameters have their values again."""
    if not_held(model, masks) is None:  # nothing is written for nothing: graphs would count it as a change
        yield
        return
    saved = [(parameter, parameter.detach().clone()) for _, parameter, mask in resolve(model, masks) if not mask.all()]
    apply_masks(model, masks)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in saved:
                parameter.copy_(values)
