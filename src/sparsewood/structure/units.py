"""The map between the two spaces: element scores into unit scores, decisions on units into masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.structure.counts import entries_removed, slices_by_tensor
from sparsewood.structure.structure import Group, Slice, Structure
from sparsewood.types import Masks

__all__ = ["Part", "Reduction", "to_masks", "to_units"]

Reduction = Literal["sum", "mean", "max", "l2"]
Part = Literal["group", "producers"]
_CHUNK = 1 << 20
"""Elements that are held in float64 at a time where an axis is summed over."""


def to_units(
    structure: Structure,
    element_scores: Mapping[str, Tensor],
    *,
    reduction: Reduction = "sum",
    part: Part = "group",
) -> dict[str, Tensor]:
    """Unit scores from element scores: for every removable group a float64 tensor[units], on the CPU.

    `element_scores` maps names of parameters or buffers to tensors of their shapes. A unit's score is the sum, mean,
    maximum or square root of the sum of squares of the elements that go with it, over all parameters that have scores;
    an element on two axes of one unit counts once. With part="producers" only elements where the unit is made count,
    not those where it is read. Groups of whose parameters none has scores are left out.

    Raises `UnknownName` for names that the structure does not know, and `SparsewoodError` for tensors of another shape
    or with NaN, and if no group has scores.
    """
    _require("reduction", reduction, get_args(Reduction))
    _require("part", part, get_args(Part))
    _check(structure, element_scores)
    places = _places(structure, part)
    totals: dict[str, Tensor] = {}
    numbers: dict[str, np.ndarray] = {}
    for name, scores in element_scores.items():
        if name not in places or not scores.numel():
            continue
        axes = sorted({one.axis for _, slices in places[name] for one in slices})
        table = _table(scores.detach(), axes, reduction)
        for group, slices in places[name]:
            found = _of_units(table, axes, slices, group.units, reduction)
            before = totals.get(group.name)
            totals[group.name] = found if before is None else _joined(before, found, reduction)
            if reduction == "mean":
                count = entries_removed(scores.shape, slices, group.units)
                numbers[group.name] = numbers.get(group.name, 0) + count
    if not totals:
        raise _nothing(element_scores, places, part)
    if reduction == "mean":
        totals = {name: total / torch.from_numpy(numbers[name]) for name, total in totals.items()}
    if reduction == "l2":
        totals = {name: total.sqrt() for name, total in totals.items()}
    return {group.name: totals[group.name] for group in structure.prunable if group.name in totals}


def _places(structure: Structure, part: Part) -> dict[str, list[tuple[Group, list[Slice]]]]:
    """For every parameter or buffer, the groups that have units in it, with their slices of it."""
    places: dict[str, list[tuple[Group, list[Slice]]]] = {}
    for group in structure.prunable:
        chosen = [one for one in group.slices if part == "group" or one.role != "in"]
        for name, slices in slices_by_tensor(chosen).items():
            places.setdefault(name, []).append((group, slices))
    return places


# ---------------------------------------------------------------- the sums


def _table(scores: Tensor, axes: Sequence[int], reduction: Reduction) -> Tensor:
    """The scores in float64 (squares for l2), reduced over all but `axes`."""
    rest = [axis for axis in range(scores.dim()) if axis not in axes]
    if not rest:
        return _as_double(scores, reduction)
    rows = max(1, _CHUNK // (scores.numel() // len(scores)))
    reduce = _reducer(reduction)
    pieces = [reduce(_as_double(piece, reduction), rest, True) for piece in scores.split(rows)]
    table = torch.cat(pieces)
    return reduce(table, rest, False) if 0 in rest else table.squeeze(rest)


def _as_double(scores: Tensor, reduction: Reduction) -> Tensor:
    scores = scores.to(torch.float64)
    return scores.square() if reduction == "l2" else scores


def _reducer(reduction: Reduction) -> Callable[[Tensor, Sequence[int], bool], Tensor]:
    if reduction == "max":
        return lambda table, axes, keepdim: table.amax(tuple(axes), keepdim)
    return lambda table, axes, keepdim: table.sum(tuple(axes), keepdim)


def _of_units(table: Tensor, axes: Sequence[int], slices: Sequence[Slice], units: int, reduction: Reduction) -> Tensor:
    """The units' sums (or maxima) over one tensor; `table` has one dimension for each of `axes`.

    The elements of a unit are a union of hyperplanes, one set for each slice. Each slice takes those that no earlier
    one has taken.
    """
    reduce = _reducer(reduction)
    mine = [axes.index(one.axis) for one in slices]
    others = [axis for axis in range(len(axes)) if axis not in mine]
    table = reduce(table, others, False) if others else table
    order = np.argsort(np.argsort(mine))  # the dimension of the reduced table that each slice lies along
    owners = [torch.from_numpy(np.where(one.owner < 0, units, one.owner)) for one in slices]
    total = torch.full((units + 1,), -torch.inf if reduction == "max" else 0.0, dtype=torch.float64)
    for number, (axis, owner) in enumerate(zip(order.tolist(), owners, strict=True)):
        left = table
        for before in range(number if reduction != "max" else 0):
            taken = _along(owner, axis, left) == _along(owners[before], int(order[before]), left)
            left = left.masked_fill(taken, 0.0)
        rest = [other for other in range(left.dim()) if other != axis]
        line = (reduce(left, rest, False) if rest else left).cpu()
        if reduction == "max":
            total.scatter_reduce_(0, owner, line, "amax")
        else:
            total.index_add_(0, owner, line)
    return total[:units]


def _along(owner: Tensor, axis: int, table: Tensor) -> Tensor:
    """The owners as a column that broadcasts along `axis` of `table`."""
    shape = [1] * table.dim()
    shape[axis] = len(owner)
    return owner.to(table.device).view(shape)


def _joined(first: Tensor, second: Tensor, reduction: Reduction) -> Tensor:
    return torch.maximum(first, second) if reduction == "max" else first + second


# ---------------------------------------------------------------- decisions


def to_masks(structure: Structure, keep: Mapping[str, Any]) -> Masks:
    """Masks of parameters from decisions on units: an entry is False where one of its axes belongs to a removed unit.

    `keep` maps names of groups to one truth value for each unit, True = kept: a boolean tensor, array or list. Every
    parameter that a named group has units in gets a mask; buffers get none. Groups that are not named stay whole.

    Raises `UnknownName` for a group that does not exist, and `SparsewoodError` for a group that is frozen and for
    anything but one truth value per unit, or if no unit of a group is kept.
    """
    if not isinstance(keep, Mapping):
        raise SparsewoodError(
            f"'keep' must map names of groups to one truth value for each unit. Got {type(keep).__name__}."
        )
    masks: dict[str, Tensor] = {}
    for name, decisions in keep.items():
        group = structure.group(name)
        if group.frozen_by is not None:
            raise SparsewoodError(
                f"The units of group {name!r} cannot be removed: {group.frozen_by}. Leave it out of 'keep'; the groups "
                "in structure.prunable can be removed from."
            )
        kept = np.append(_decisions(group, decisions), True)  # owner -1 is the last: kept
        for one in group.slices:
            if one.param in structure.record.parameters:
                shape = structure.shapes[one.param]
                if one.param not in masks:
                    masks[one.param] = torch.ones(shape, dtype=torch.bool)
                masks[one.param] &= _along(torch.from_numpy(kept[one.owner]), one.axis, masks[one.param])
    return Masks.adopt({name: masks[name] for name in structure.shapes if name in masks})


def _decisions(group: Group, given: Any) -> np.ndarray:
    """One truth value for each unit."""
    values = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if values.dtype != np.bool_ or values.shape != (group.units,):
        raise SparsewoodError(
            f"keep[{group.name!r}] must be {group.units} truth values, one for each unit, True = kept. "
            f"Got {values.dtype}{list(values.shape)}. Numbers of units become truth values by "
            "mask = torch.zeros(units, dtype=torch.bool); mask[numbers] = True."
        )
    if not values.any():
        raise SparsewoodError(
            f"keep[{group.name!r}] removes all of its {group.units} units: at least one unit must stay, or nothing "
            "gets through the network there."
        )
    return values


# ---------------------------------------------------------------- what is refused


def _require(what: str, value: object, known: Iterable[str]) -> None:
    known = list(known)
    if value not in known:
        raise SparsewoodError(
            f"The {what!r} parameter of to_units must be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}. "
            f"Got {value!r}."
        )


def _check(structure: Structure, element_scores: object) -> None:
    if not isinstance(element_scores, Mapping):
        raise SparsewoodError(
            f"Element scores must map names of parameters to tensors. Got {type(element_scores).__name__}."
        )
    for name, scores in element_scores.items():
        if name not in structure.shapes:
            raise UnknownName.among("parameter", name, structure.shapes)
        shape = structure.shapes[name]
        if not isinstance(scores, Tensor) or scores.is_complex():
            got = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
            raise SparsewoodError(f"The scores of {name!r} must be a tensor of real numbers. Got {got}.")
        if tuple(scores.shape) != shape:
            raise SparsewoodError(
                f"The scores of {name!r} have shape {tuple(scores.shape)}, the parameter has {shape}. "
                "Scores have one number for each element."
            )
        if bool(scores.sum().isnan()) and bool(scores.isnan().any()):
            bad = int(scores.isnan().sum())
            raise SparsewoodError(
                f"{bad} of {scores.numel()} scores of {name!r} are NaN: selecting by them would mean nothing. Check "
                "the weights, and the loss if the scores use gradients."
            )


def _nothing(given: Mapping[str, Tensor], places: Iterable[str], part: Part) -> SparsewoodError:
    listed = _listed(list(given))
    if not places:
        return SparsewoodError("No unit of this structure can be removed; print(structure) says what froze them.")
    what = "elements that make units that can be removed" if part == "producers" else "units that can be removed"
    return SparsewoodError(
        f"No scores for any group: of {listed}, none has {what}. Those that have: {_listed(list(places))}."
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (", ".join(map(repr, names[:6])) or "the empty mapping") + more
