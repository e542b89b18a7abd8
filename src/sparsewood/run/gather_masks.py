"""What the masks and logs of cells show: sparsity by layer, units left, overlaps, scores, trainings, structure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsewood.report.overlap import chance_overlaps, mask_overlaps, mean_overlap
from sparsewood.report.study import (
    BoxState,
    Histogram,
    LayerSparsity,
    NetworkPicture,
    Overlap,
    TrainingCurve,
    UnitMap,
)
from sparsewood.run.bench import MASKS
from sparsewood.run.directory import read_json
from sparsewood.types import Masks

__all__ = ["of_masks"]

Cell = tuple[dict[str, Any], Path]
Key = tuple[str, float]


def of_masks(cells: Sequence[Cell]) -> dict[str, Any]:
    """Fields of a `Study`, from cells and the directories in which they lie."""
    pruned = [(cell, place) for cell, place in cells if cell["role"] == "method"]
    first = _of_first_seed(pruned)
    return {
        "layers": _layers(pruned),
        "unit_maps": [one for cell, place in first for one in _unit_maps(cell, place)],
        "overlaps": _overlaps(pruned),
        "histograms": [one for cell, _ in first for one in _histograms(cell)],
        "curves": [one for cell, place in cells if _shown(cell) for one in _curves(cell, place)],
        "networks": [_picture(cell, place) for cell, place in first],
    }


def _shown(cell: dict[str, Any]) -> bool:
    """Trainings are shown of methods and of what is no method's own control."""
    return cell["role"] == "method" or not cell["of"]


def _of_first_seed(cells: Sequence[Cell]) -> list[Cell]:
    found: dict[tuple[str, str, float], Cell] = {}
    for cell, place in sorted(cells, key=lambda one: one[0]["seed"]):
        found.setdefault((cell["problem"], cell["method"], cell["amount"]), (cell, place))
    return list(found.values())


def masks_of(place: Path) -> Masks | None:
    """The masks with which a cell ended; None if it has none."""
    names = sorted([*place.glob(MASKS), *place.glob(f"*/{MASKS}")])
    return Masks.load(names[-1]) if names else None


def _layers(cells: Sequence[Cell]) -> list[LayerSparsity]:
    """Mean sparsity of every weight over seeds."""
    groups: dict[tuple[str, str, float, str], list[tuple[int, int]]] = {}
    for cell, _ in cells:
        for one in cell["layers"]:
            if len(one["shape"]) > 1:
                key = (cell["problem"], cell["method"], cell["amount"], one["layer"])
                groups.setdefault(key, []).append((one["size"], one["kept"]))
    return [
        LayerSparsity(*key, found[0][0], 1 - sum(kept for _, kept in found) / sum(size for size, _ in found))
        for key, found in groups.items()
    ]


def _unit_maps(cell: dict[str, Any], place: Path) -> list[UnitMap]:
    masks = masks_of(place)
    if masks is None:
        return []
    return [
        UnitMap(cell["problem"], cell["method"], cell["amount"], name, tuple(_by_output(mask)))
        for name, mask in masks.items()
        if mask.ndim > 1
    ]


def _by_output(mask: Tensor) -> list[float]:
    return [round(value, 4) for value in mask.flatten(1).double().mean(1).tolist()]


def _histograms(cell: dict[str, Any]) -> list[Histogram]:
    named = {"problem": cell["problem"], "method": cell["method"], "amount": cell["amount"]}
    return [
        Histogram(
            **{
                **{key: tuple(value) if isinstance(value, list) else value for key, value in one.items()},
                **named,
            }
        )
        for one in cell.get("bins", [])
    ]


def _curves(cell: dict[str, Any], place: Path) -> list[TrainingCurve]:
    """Every training of a cell, in order."""
    found = []
    for path in sorted([*place.glob("done.json"), *place.glob("*/done.json")]):
        epochs = read_json(path).get("epochs") or []
        if not epochs:
            continue
        stage = "dense" if cell["kind"] == "dense" else path.parent.name if path.parent != place else "training"
        found.append(
            TrainingCurve(
                cell["problem"],
                cell["method"],
                cell["amount"],
                cell["seed"],
                stage,
                tuple(one["number"] for one in epochs),
                *(
                    tuple(one.get(name) for one in epochs)
                    for name in ("loss", "validation_loss", "accuracy", "validation_accuracy")
                ),
            )
        )
    return found


# ---------------------------------------------------------------- overlaps


def _overlaps(cells: Sequence[Cell]) -> list[Overlap]:
    """Between methods (the mean over seeds), and between the seeds of each method."""
    loaded: dict[tuple[str, float], dict[tuple[str, int], dict[str, Tensor]]] = {}
    for cell, place in cells:
        masks = masks_of(place)
        if masks is not None:
            weights = {name: mask for name, mask in masks.items() if mask.ndim > 1}
            loaded.setdefault((cell["problem"], cell["amount"]), {})[cell["method"], cell["seed"]] = weights
    found = []
    for (problem, amount), every in loaded.items():
        common = _common(every.values())
        masks = {key: {name: one[name] for name in common} for key, one in every.items()}
        found += _of_amount(problem, amount, masks) if common else []
    return found


def _common(masks: Iterable[dict[str, Tensor]]) -> list[str]:
    """Weights that all of them have, since units and single weights are not of the same parameters."""
    given = list(masks)
    return [name for name in given[0] if all(name in one for one in given)]


def _of_amount(problem: str, amount: float, masks: dict[tuple[str, int], dict[str, Tensor]]) -> list[Overlap]:
    methods, seeds = list(dict.fromkeys(name for name, _ in masks)), list(dict.fromkeys(seed for _, seed in masks))
    found = []
    full = [seed for seed in seeds if all((method, seed) in masks for method in methods)]
    if len(methods) > 1 and full:
        by_seed = [{method: masks[method, seed] for method in methods} for seed in full]
        matrices = [mask_overlaps(one) for one in by_seed]
        chances = [mean_overlap(chance_overlaps(one)) for one in by_seed]
        mean = tuple(
            tuple(sum(matrix[i][j] for matrix in matrices) / len(matrices) for j in range(len(methods)))
            for i in range(len(methods))
        )
        found.append(Overlap(problem, amount, "methods", "", tuple(methods), mean, _mean(chances)))
    for method in methods:
        own = {f"seed {seed}": masks[method, seed] for seed in seeds if (method, seed) in masks}
        if len(own) > 1:
            matrix, chance = mask_overlaps(own), mean_overlap(chance_overlaps(own))
            found.append(Overlap(problem, amount, "seeds", method, tuple(own), matrix, chance))
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


# ---------------------------------------------------------------- structure


def _picture(cell: dict[str, Any], place: Path) -> NetworkPicture:
    """The layers of the network in the order of the model, with what is left of each."""
    masks = masks_of(place) or {}
    boxes = []
    for one in cell["layers"]:
        name, shape = one["layer"], one["shape"]
        if len(shape) < 2:
            continue
        left = shape[0]
        if name in masks:
            left = int(masks[name].flatten(1).any(1).count_nonzero())
        kind = {2: "linear", 3: "convolution", 4: "convolution", 5: "convolution"}.get(len(shape), "weight")
        size = "x".join(map(str, shape))
        boxes.append(BoxState(name, kind, size, one["size"], one["kept"], shape[0], left))
    edges = tuple((a.layer, b.layer) for a, b in pairwise(boxes))
    return NetworkPicture(cell["problem"], cell["method"], cell["amount"], tuple(boxes), edges)
