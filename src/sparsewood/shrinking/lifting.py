"""Unit scores from the element scores of a criterion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.criteria import Criterion
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.granularity import Element
from sparsewood.parameters import Entry, entries
from sparsewood.pruning.scores import View, checked, joined
from sparsewood.statistics import Loss, collect
from sparsewood.structure import Group, Structure
from sparsewood.structure.counts import entries_removed, slices_by_tensor
from sparsewood.structure.units import Part, Reduction, to_units
from sparsewood.types import Statistics

__all__ = ["UnitScores", "element_scores_of_units", "over_mean", "require_scores"]


class UnitScores(Protocol):
    """A criterion that scores units themselves: for groups by name float64[units], higher = keep.

    Groups that it leaves out are held.
    """

    def __call__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        data: Iterable[Any] | None,
        loss: Loss | None,
        generator: torch.Generator,
    ) -> Mapping[str, Tensor]: ...


def element_scores_of_units(
    model: nn.Module,
    structure: Structure,
    criterion: Criterion,
    *,
    data: Iterable[Any] | None,
    loss: Loss | None,
    example_inputs: Any,
    statistics: Statistics | None,
    generator: torch.Generator,
    reduction: Reduction | None,
    part: Part,
) -> dict[str, Tensor]:
    """For every group of which the criterion covers a parameter, the scores of its units: float64[units].

    A unit holds elements of several parameters, as a filter holds those of one. Its score is what the criterion makes
    of all of them: `criterion.finish(sum or maximum of the element scores, their number)`. So `Magnitude` is the L1
    norm and `LpNorm(2)` the L2 norm of all coupled weights, `WeightTimesGradient` the sum of |w g|, and `Random` one
    draw for each unit (sums of draws would all be alike in large units). With `reduction` the finished scores of single
    elements are combined by that instead.
    """
    chosen = _covered(model, structure, criterion)
    for entry in chosen:
        if entry.parameter.is_meta:
            raise SparsewoodError(f"{entry.name!r} has no values: it is on the meta device. Load the weights first.")
    if not chosen:
        return {}
    if data is None and example_inputs is not None:
        data = [(example_inputs, None) if isinstance(example_inputs, list | tuple) else example_inputs]
    if statistics is None:
        statistics = _statistics(model, criterion, chosen, data, loss)
    statistics = joined(criterion, chosen, statistics, {})
    view = View(criterion, Element(), statistics, generator, torch.float64)
    with torch.inference_mode(False), torch.no_grad():
        elements = {e.name: checked(e.name, view.elements(e, e.parameter.detach(), view.means(e))) for e in chosen}
        if reduction is not None:
            finished = {name: criterion.finish(scores, 1) for name, scores in elements.items()}
            return to_units(structure, finished, reduction=reduction, part=part)
        if criterion.reduction == "first":
            return _first(structure, elements)
        combined = to_units(structure, elements, reduction="max" if criterion.reduction == "amax" else "sum", part=part)
        sizes = _sizes(structure, elements, part)
        return {name: checked(name, criterion.finish(total, sizes[name])) for name, total in combined.items()}


def _covered(model: nn.Module, structure: Structure, criterion: Criterion) -> list[Entry]:
    """The parameters that count: those that the criterion covers.

    One that covers all weights also counts parameters of two axes or more in groups that hold no weight otherwise.
    """
    known = entries(model)
    covered = {entry.name for entry in known if criterion.covers(entry)}
    if type(criterion).covers is Criterion.covers:
        matrices = {entry.name for entry in known if entry.parameter.dim() > 1}
        for group in structure.prunable:
            held = {one.param for one in group.slices}
            if not held & covered:
                covered |= held & matrices
    owned = {one.param for group in structure.prunable for one in group.slices}
    return [entry for entry in known if entry.name in owned & covered]


def _first(structure: Structure, elements: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The score of one element of each unit: the first, where it is made if that has scores."""
    found = {}
    for group in structure.prunable:
        slices = sorted((one for one in group.slices if one.param in elements), key=lambda one: one.role == "in")
        if slices:
            one = slices[0]
            scores = elements[one.param]
            line = scores.movedim(one.axis, 0).reshape(len(one.owner), -1)[:, 0]
            units, first = np.unique(one.owner, return_index=True)
            found[group.name] = line.to("cpu", torch.float64)[torch.from_numpy(first[units >= 0])]
    return found


def _sizes(structure: Structure, elements: Mapping[str, Tensor], part: Part) -> dict[str, int]:
    """How many elements that have scores each unit of a group holds."""
    return {group.name: _size(structure, group, elements, part) for group in structure.prunable}


def _size(structure: Structure, group: Group, elements: Mapping[str, Tensor], part: Part) -> int:
    slices = [one for one in group.slices if one.param in elements and (part == "group" or one.role != "in")]
    counts = [
        entries_removed(structure.shapes[name], ones, group.units)[:1].sum()
        for name, ones in slices_by_tensor(slices).items()
    ]
    return int(sum(counts))


def _statistics(
    model: nn.Module, criterion: Criterion, chosen: list[Entry], data: Iterable[Any] | None, loss: Loss | None
) -> Statistics:
    if not criterion.needs:
        return Statistics({}, 0)
    if data is None:
        raise SparsewoodError(f"{criterion} needs data: pass data=... (batches), and loss=... if it needs gradients.")
    return collect(model, data, list(criterion.needs), loss, names=[entry.name for entry in chosen])


def over_mean(scores: Tensor) -> Tensor:
    """The scores over their mean, if that is positive: so groups with weights of different scale compete fairly."""
    mean = scores.mean() if len(scores) else scores.sum()
    return scores / mean if mean > 0 else scores


def require_scores(structure: Structure, found: Mapping[str, Tensor], who: object) -> dict[str, Tensor]:
    units = {group.name: group.units for group in structure.prunable}
    scores: dict[str, Tensor] = {}
    for name, one in found.items():
        if name not in units:
            raise UnknownName.among(f"group in the scores of {who}", str(name), units)
        values = torch.as_tensor(one).detach().to("cpu", torch.float64)
        if values.shape != (units[name],) or not bool(torch.isfinite(values).all()):
            raise SparsewoodError(
                f"{who} must give group {name!r} {units[name]} finite numbers, one for each unit. "
                f"Got {tuple(values.shape)}, {int((~torch.isfinite(values)).sum())} of them not finite."
            )
        scores[name] = values
    return {name: scores[name] for name in units if name in scores}
