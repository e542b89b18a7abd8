"""What pruning costs before any training: the loss of copies, by score, with and without bias propagation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsewood.batches import require_batches, split_batch
from sparsewood.checkpoint import digest
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.files import writable_directory, write_atomically
from sparsewood.measurement import evaluate
from sparsewood.recipes.measurements import (
    SCORES,
    ByLayer,
    get_pruning_measurements,
    layers_of,
    masks_from_scores,
    whole,
)
from sparsewood.recipes.replacing import with_new_biases, without_units
from sparsewood.statistics import Loss
from sparsewood.structure import Structure
from sparsewood.units.tracing import structure_of

__all__ = ["Probe", "ProbeRow", "eval_layer", "probe_pruning"]

Retrain = Callable[[nn.Module, Any], object]


@dataclass(frozen=True)
class ProbeRow:
    """The loss of one copy on one part of the data; `penalty` is by how much it is above the whole network's."""

    scoring: str
    bias_propagation: bool
    part: str
    loss: float
    penalty: float

    @property
    def tag(self) -> str:
        """pruning_penalty[_bp]_<scoring>, with the part behind it unless it is the validation part."""
        middle = "_bp" if self.bias_propagation else ""
        return f"pruning_penalty{middle}_{self.scoring}" + ("" if self.part == "val" else f"_{self.part}")


@dataclass(frozen=True, eq=False)
class Probe:
    """What `probe_pruning` found: rows, and the scores, means, mean squares and decisions behind them."""

    rows: tuple[ProbeRow, ...]
    baseline: Mapping[str, float]
    scores: Mapping[str, ByLayer]
    means: ByLayer
    l2norms: ByLayer
    keep: Mapping[str, Mapping[str, np.ndarray]]

    def tags(self) -> dict[str, float]:
        """The penalties by tag, as a log takes them."""
        return {row.tag: row.penalty for row in self.rows}


def probe_pruning(
    model: nn.Module,
    data: Iterable[Any],
    amounts: float | int | Mapping[str, float | int],
    layers: str | Sequence[str] = "all",
    *,
    evaluate_on: Mapping[str, Iterable[Any]],
    loss: Loss,
    scorings: Sequence[str] = ("rand", "norm", "abs_rs", "abs_mrs"),
    bias_propagation: Sequence[bool] = (False, True),
    structure: Structure | None = None,
    retrain: Retrain | None = None,
    generator: torch.Generator | None = None,
) -> Probe:
    """By how much the loss rises when some of the units of some layers go, for every score, with and without means.

    A copy is pruned, and evaluated in eval mode; the model is not changed.

    Args:
        data: batches for scores and means.
        amounts: how much of each layer goes: a fraction (floor(fraction * N) units), a count, or a mapping from layers.
        evaluate_on: other batches, by name: {"val": ..., "test": ...}.
        scorings: which of `measurements.SCORES`.
        retrain: called with each copy and its masks before it is evaluated, to train it.

    Raises `SparsewoodError` for other scores and for parts that can be read only once, and as
    `get_pruning_measurements` does.

    Source: Evci et al. 2018, "Mean Replacement Pruning", https://openreview.net/forum?id=BJxRVnC5Fm.

    >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> data = [(torch.randn(8, 2), torch.tensor([0, 1] * 4))]
    >>> found = probe_pruning(net, data, 0, evaluate_on={"val": data}, loss=nn.functional.cross_entropy)
    >>> len(found.rows), set(found.tags().values())
    (8, {0.0})
    """
    _require_scorings(scorings)
    _require_lasting(evaluate_on)
    structure = structure or structure_of(model, _first_inputs(data))
    measured = get_pruning_measurements(model, data, layers, loss=loss, structure=structure, generator=generator)
    chosen = measured.scores["norm"]
    how_much = dict(amounts) if isinstance(amounts, Mapping) else dict.fromkeys(chosen, amounts)
    loss_on = {part: partial(evaluate, data=batches, loss=loss, topk=()) for part, batches in evaluate_on.items()}
    baseline = {part: measure(model).loss for part, measure in loss_on.items()}
    rows, kept = [], {}
    for scoring in scorings:
        masks, keep = masks_from_scores(structure, measured.scores[scoring], how_much)
        kept[scoring] = keep
        for propagated in bias_propagation:
            copied = without_units(model, structure, keep, data if propagated else None)
            if retrain is not None:
                retrain(copied, with_new_biases(copied, structure, masks))
            for part, measure in loss_on.items():
                value = measure(copied).loss
                rows.append(ProbeRow(scoring, propagated, part, value, value - baseline[part]))
    return Probe(tuple(rows), baseline, *measured, kept)


def _require_scorings(scorings: Sequence[str]) -> None:
    for name in scorings:
        if name not in SCORES:
            raise UnknownName.among("score of mean replacement pruning", str(name), SCORES)


def _require_lasting(parts: Mapping[str, Iterable[Any]]) -> None:
    for part, batches in parts.items():
        require_batches(batches)
        if iter(batches) is batches:
            raise SparsewoodError(f"{part!r} is read for every copy: pass a list or a DataLoader, no generator.")


def _first_inputs(data: Iterable[Any]) -> Any:
    require_batches(data)
    for batch in data:
        return split_batch(batch)[0]
    raise SparsewoodError("The data is empty: no batch was read.")


# ---------------------------------------------------------------- one layer, more and more of it


@dataclass(frozen=True)
class LayerCurve:
    """Loss and accuracy of one layer's pruning at each count of removed units, on training and test data."""

    layer: str
    scoring: str
    bias_propagation: bool
    counts: tuple[int, ...]
    train_loss: tuple[float, ...]
    train_accuracy: tuple[float, ...]
    test_loss: tuple[float, ...]
    test_accuracy: tuple[float, ...]


def eval_layer(
    model: nn.Module,
    layer: str,
    data: Iterable[Any],
    *,
    train: Iterable[Any],
    test: Iterable[Any],
    loss: Loss,
    max_fraction: float = 0.95,
    n_exps: int = 20,
    scorings: Sequence[str] = ("rand", "abs_rs", "norm", "abs_mrs"),
    bias_propagation: Sequence[bool] = (False, True),
    path: str | Path | None = None,
    structure: Structure | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[LayerCurve], object] | None = None,
) -> list[LayerCurve]:
    """One layer pruned more and more, by every score, with and without bias propagation; nothing is trained.

    Removed are floor(c) units for c in linspace(0, N * max_fraction, n_exps), N the units of the layer that can go.

    Args:
        layer: as `select_layers` takes it, one layer: a name, "firstconv", "midconv", ...
        data: batches for scores and means. `train` and `test` are evaluated on.
        path: a directory in which every curve is a file, `<layer>-<scoring>-<bp or plain>.json`; curves that are there
            already, of this model and these settings, are read and not measured again.

    Raises `SparsewoodError` for curves in `path` that are of another model or other settings.

    >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> data = [(torch.randn(8, 2), torch.tensor([0, 1] * 4))]
    >>> curves = eval_layer(net, "0", data, train=data, test=data, loss=nn.functional.cross_entropy, n_exps=4)
    >>> len(curves), curves[0].counts
    (8, (0, 1, 2, 3))
    """
    _require_scorings(scorings)
    _require_lasting({"train": train, "test": test})
    if not 0 < max_fraction < 1 or isinstance(n_exps, bool) or not isinstance(n_exps, int) or n_exps < 2:
        raise SparsewoodError(f"eval_layer: max_fraction in (0, 1) and n_exps >= 2. Got {max_fraction!r}, {n_exps!r}.")
    structure = structure or structure_of(model, _first_inputs(data))
    named = layers_of(model, structure, layer)
    if len(named) != 1:
        raise SparsewoodError(f"eval_layer takes one layer. {layer!r} means {', '.join(named)}.")
    name, one = next(iter(named.items()))
    units = int((one.groups >= 0).sum())
    counts = tuple(whole(count) for count in np.linspace(0, units * max_fraction, n_exps))
    made_from = digest({k: v.detach().cpu() for k, v in model.state_dict().items()}, {"counts": str(counts)})
    if path is not None:
        writable_directory(path)
    curves: dict[tuple[str, bool], LayerCurve] = {}
    missing = []
    for key in ((scoring, propagated) for scoring in scorings for propagated in bias_propagation):
        read = None if path is None else _read(_file(path, name, *key), made_from)
        if read is None:
            missing.append(key)
        else:
            curves[key] = read
    scores: Mapping[str, ByLayer] = {}
    if missing:
        scores = get_pruning_measurements(model, data, name, loss=loss, structure=structure, generator=generator).scores
    for key in missing:
        scoring, propagated = key
        points = []
        for count in counts:
            _, keep = masks_from_scores(structure, scores[scoring], {name: count})
            copied = without_units(model, structure, keep, data if propagated else None)
            found = [evaluate(copied, part, loss=loss, topk=(1,)) for part in (train, test)]
            points.append([number for of in found for number in (of.loss, of.top.get(1, 1.0))])
        curves[key] = LayerCurve(name, scoring, propagated, counts, *(tuple(c) for c in zip(*points, strict=True)))
        if path is not None:
            _write(_file(path, name, *key), curves[key], made_from)
        if progress is not None:
            progress(curves[key])
    return [curves[scoring, propagated] for scoring in scorings for propagated in bias_propagation]


def _file(path: str | Path, layer: str, scoring: str, propagated: bool) -> Path:
    return Path(path) / f"{layer}-{scoring}-{'bp' if propagated else 'plain'}.json"


def _read(file: Path, made_from: str) -> LayerCurve | None:
    if not file.is_file():
        return None
    try:
        held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        other = held.pop("made_from") != made_from
        lists = {key: tuple(of) for key, of in held.items() if isinstance(of, list)}
        curve = LayerCurve(**{**held, **lists})
    except (ValueError, KeyError, TypeError) as error:
        raise SparsewoodError(f"'{file}' holds no curve: {error}. Remove it, or choose another directory.") from error
    if other:
        raise SparsewoodError(f"'{file}' is of another model or other settings. Choose another directory.")
    return curve


def _write(file: Path, curve: LayerCurve, made_from: str) -> None:
    text = json.dumps(asdict(curve) | {"made_from": made_from}, indent=1)
    write_atomically(file, lambda path: path.write_text(text, encoding="utf-8"))
