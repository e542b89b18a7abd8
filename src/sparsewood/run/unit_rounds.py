"""Rounds in which whole units go: chosen by the structure of the network, and noted unit by unit.

What is noted of a round lies in its stage, beside the masks. When a variant is finished, `write_unit_files` gathers it
in the files that `report.unit_files` describes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparsewood.criteria import LpNorm, Magnitude
from sparsewood.data.part import Part
from sparsewood.masks import apply_masks
from sparsewood.parameters import entries, is_weight
from sparsewood.pruning import Pruning
from sparsewood.report.unit_files import by_level, index_text
from sparsewood.run.bench import Bench
from sparsewood.run.directory import Stage, read_json, write_json, write_text
from sparsewood.schedules import Event
from sparsewood.seeds import generator_for
from sparsewood.shrinking.unit_masks import choose_units, removed_units, units_left
from sparsewood.structure import Structure
from sparsewood.types import Masks
from sparsewood.unit_criteria import FilterNorm, OutlierSelectivity
from sparsewood.units.memorization import UnitMemorization
from sparsewood.units.sites import Layer, find_layers, find_sites

__all__ = [
    "NOTES",
    "choose_whole_units",
    "notes_of",
    "share_of_units",
    "unit_data",
    "weights_removed",
    "whole",
    "write_notes",
    "write_unit_files",
]

NOTES = "units.json"


@runtime_checkable
class Measuring(Protocol):
    """A criterion that can say more of units than their scores."""

    images: int | None

    def measure(
        self, model: nn.Module, structure: Structure, images: Any, generator: torch.Generator
    ) -> UnitMemorization: ...

    def of(self, found: UnitMemorization) -> Mapping[str, Tensor]: ...


def whole(structure: Structure) -> Masks:
    """Masks that keep everything, of all parameters in which units lie."""
    return structure.to_masks({group.name: torch.ones(group.units, dtype=torch.bool) for group in structure.prunable})


def unit_data(bench: Bench, pruning: Pruning, number: int) -> Any:
    """What the criterion of a pruning sees in round `number`; None if it needs nothing.

    Every process sees all of it, so that all choose alike.
    """
    if pruning.reads_images:
        return bench.images(number, getattr(pruning.criterion, "images", None))
    return bench.scoring(number, shared=False) if pruning.reads_data else None


def choose_whole_units(
    bench: Bench, pruning: Pruning, number: int, events: Sequence[Event], model: nn.Module, earlier: Masks
) -> tuple[Masks, dict[str, Any]]:
    """The masks after the events of round `number`, and what is to be noted of them; the model ends with them applied.

    Scores are of the network as it was trained last, with the earlier masks.
    """
    structure = bench.structure(model)
    before = masks = whole(structure) & earlier
    notes: dict[str, Any] = {}
    for index, event in enumerate(events):
        data, generator = unit_data(bench, pruning, number), generator_for(bench.seed, "prune", number, index)
        scores = None
        if isinstance(pruning.criterion, Measuring):
            found = pruning.criterion.measure(model, structure, data, generator)
            scores = pruning.criterion.of(found)
            notes |= _measured(found, data, second=isinstance(pruning.criterion, OutlierSelectivity))
        elif isinstance(pruning.criterion, FilterNorm | LpNorm | Magnitude):
            notes["l1"] = _l1(model, structure)
        masks = choose_units(
            pruning, model, structure, event, masks, data=data, loss=nn.functional.cross_entropy, generator=generator,
            scores=scores,
        )  # fmt: skip
        apply_masks(model, masks)
    return masks, notes | notes_of(structure, masks, before)


def notes_of(structure: Structure, masks: Masks, before: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """How many units there are and how many are left, and which went: for every layer their numbers."""
    left = units_left(structure, masks)
    return {
        "units": sum(len(one) for one in left.values()),
        "left": sum(int(one.sum()) for one in left.values()),
        "pruned": removed_units(structure, masks, before),
    }


def share_of_units(stage: Stage) -> float | None:
    """The share of the units that can go that are gone after a stage; None if no units were pruned there."""
    path = stage.directory / NOTES
    if not path.is_file():
        return None
    notes = read_json(path)
    return 1 - notes["left"] / notes["units"]


def weights_removed(model: nn.Module, masks: Masks) -> int:
    """How many entries of weights the masks remove: of filters and matrices, of every layer that has any."""
    weights = {name for entry in entries(model) if is_weight(entry) for name in (entry.name, *entry.aliases)}
    return sum(mask.numel() - int(mask.count_nonzero()) for name, mask in masks.items() if name in weights)


# ---------------------------------------------------------------- what is noted


def _measured(found: UnitMemorization, images: Part, *, second: bool) -> dict[str, Any]:
    """Scores and the images that excite units most, under their numbers in the data set."""
    numbers = torch.arange(len(images)) if images.positions is None else images.positions
    scores = found.outlier if second else found.scores
    rows: dict[str, list[list[Any]]] = {}
    for name, values in scores.items():
        columns = [_numbered(found.image[name], numbers)]
        columns += [_numbered(found.second_image[name], numbers)] if second else []
        shown = [None if math.isnan(value) else value for value in values.tolist()]
        rows[name] = [list(row) for row in zip(shown, *columns, strict=True)]
    return {"memorization": rows, "images": numbers[: found.examples].tolist()}


def _numbered(index: Tensor, numbers: Tensor) -> list[int]:
    return torch.where(index >= 0, numbers[index.clamp_min(0)], -1).tolist()


def _l1(model: nn.Module, structure: Structure) -> dict[str, list[float]]:
    """Sum of |w| of everything that makes one output, for every layer that makes one unit with each."""
    layers = find_layers(structure, find_sites(structure))
    found = {name: _norms(model.get_parameter(layer.producer), structure, layer) for name, layer in layers.items()}
    return {name: norms for name, norms in found.items() if len(norms) == len(layers[name])}


def _norms(weight: Tensor, structure: Structure, layer: Layer) -> list[float]:
    axes = [
        one.axis
        for group in structure.groups
        for one in group.slices
        if one.param == layer.producer and one.role != "in"
    ]
    lines = weight.detach().double().abs().movedim(axes[0] if axes else 0, 0)
    return lines.reshape(len(lines), -1).sum(1).tolist()


# ---------------------------------------------------------------- the files of a variant


def write_unit_files(directory: Path, stages: Mapping[int, Stage]) -> None:
    """Gather what was noted in the stages of a variant, given by round; round 1 is level 0."""
    levels = {number - 1: read_json(stage.directory / NOTES) for number, stage in stages.items()}
    write_text(directory / "pruned_indices.json", by_level({k: one["pruned"] for k, one in levels.items()}) + "\n")
    if any("memorization" in one for one in levels.values()):
        measured = {number: one for number, one in levels.items() if "memorization" in one}
        text = by_level({number: one["memorization"] for number, one in measured.items()})
        write_text(directory / "Avg_UnitMems_perlevel.json", text + "\n")
        write_text(directory / "indices.txt", index_text({number: one["images"] for number, one in measured.items()}))
    if any("l1" in one for one in levels.values()):
        norms = {
            number: {name: dict(enumerate(values)) for name, values in one["l1"].items()}
            for number, one in levels.items()
            if "l1" in one
        }
        write_text(directory / "l1_scores.json", by_level(norms) + "\n")


def write_notes(stage: Stage, notes: Mapping[str, Any]) -> None:
    """Write what was noted of a round."""
    write_json(stage.directory / NOTES, notes)
