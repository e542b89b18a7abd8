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
from sparsewood.run.bench import last_masks
from sparsewood.run.directory import read_json

__all__ = ["of_masks"]

Cell = tuple[dict[str, Any], Path]
Matrix = tuple[tuple[float, ...], ...]


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
    masks = last_masks(place)
    if masks is None:
        return []
    return [
        UnitMap(cell["problem"], cell["method"], cell["amount"], name, tuple(_by_output(mask)))
        for name, mask in masks.items()
        if mask.ndim > 1
    ]


def _by_output(mask: Tensor) -> list[float]:
    """Shares to four digits: a unit of which hardly anything is left is not one that is gone."""
    rows = mask.flatten(1)
    return [float(f"{kept / max(rows.shape[1], 1):.4g}") for kept in rows.count_nonzero(1).tolist()]


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
        masks = last_masks(place)
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
        alike, chances = (_mean([of(one) for one in by_seed]) for of in (mask_overlaps, chance_overlaps))
        found.append(Overlap(problem, amount, "methods", "", tuple(methods), alike, mean_overlap(chances), chances))
    for method in methods:
        own = {f"seed {seed}": masks[method, seed] for seed in seeds if (method, seed) in masks}
        if len(own) > 1:
            alike, chances = mask_overlaps(own), chance_overlaps(own)
            found.append(Overlap(problem, amount, "seeds", method, tuple(own), alike, mean_overlap(chances), chances))
    return found


def _mean(matrices: Sequence[Matrix]) -> Matrix:
    rows = [zip(*rows, strict=True) for rows in zip(*matrices, strict=True)]
    return tuple(tuple(sum(values) / len(matrices) for values in row) for row in rows)


# ---------------------------------------------------------------- structure


def _picture(cell: dict[str, Any], place: Path) -> NetworkPicture:
    """The layers of the network in the order of the model, with what is left of each."""
    masks = last_masks(place) or {}
    boxes = []
    weights = [one for one in cell["layers"] if len(one["shape"]) > 1]
    for one in weights:
        name, shape = one["layer"], one["shape"]
        left = shape[0]
        if name in masks:
            left = int(masks[name].flatten(1).any(1).count_nonzero())
        kind = {2: "linear", 3: "convolution", 4: "convolution", 5: "convolution"}.get(len(shape), "weight")
        size = "x".join(map(str, shape))
        boxes.append(BoxState(name, kind, size, one["size"], one["kept"], shape[0], left))
    names, shapes = [one["layer"] for one in weights], [one["shape"] for one in weights]
    edges = tuple(pairwise(names)) if _is_chain(shapes) else ()
    return NetworkPicture(cell["problem"], cell["method"], cell["amount"], tuple(boxes), edges)


def _is_chain(shapes: Sequence[Sequence[int]]) -> bool:
    """Whether each weight can take what the one before it gives: else the order of the model says nothing of what feeds
    what, as where a shortcut has a weight of its own.

    >>> _is_chain([(16, 1, 3, 3), (32, 16, 3, 3), (10, 512)])
    True
    >>> _is_chain([(128, 64, 3, 3), (128, 128, 3, 3), (128, 64, 1, 1)])
    False
    """
    return all(
        inputs == before[0]
        or (len(shape) == 2 < len(before) and inputs % before[0] == 0)  # flattened
        or (len(shape) > 2 and inputs == 1 and shape[0] % before[0] == 0)  # a group for each channel
        for before, shape in pairwise(shapes)
        for inputs in (shape[1],)
    )
