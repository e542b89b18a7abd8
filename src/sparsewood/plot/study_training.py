"""How networks were trained, how they bear pruning, and what their units memorize."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.plot.curves import draw_logs
from sparsewood.plot.study_sheet import Path, finish, heading, require_some
from sparsewood.report.plots import require_matplotlib
from sparsewood.report.sensitivity import Curve, draw_curves
from sparsewood.report.study import Memorization, SensitivityCurve, TrainingCurve
from sparsewood.report.unit_plots import activation_violins, memorization_scatter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["memorization", "memorization_violins", "sensitivity_curves", "training_curves"]

TOP = 5


def training_curves(curves: Iterable[TrainingCurve], *, path: Path = None) -> Figure:
    """Loss and accuracy of every epoch, a pair of drawings for each training, as `plot.training` draws log files.

    Training data are blue and whole, validation data orange and dashed; what is not known is not drawn. Raises
    `SparsewoodError` if there is no training, a curve has values for other epochs than it has, or matplotlib is
    missing.
    """
    require_matplotlib()
    logs: dict[str, dict[str, list[float]]] = {}
    for curve in require_some(curves, "training"):
        columns: dict[str, Sequence[float | None]] = {
            "epoch": curve.epochs,
            "train_loss": curve.train_loss,
            "train_acc1": curve.train_accuracy,
            "val_loss": curve.validation_loss,
            "val_acc1": curve.validation_accuracy,
        }
        name = _training_name(curve)
        lengths = {key: len(values) for key, values in columns.items()}
        if len(set(lengths.values())) != 1:
            raise SparsewoodError(f"The curves of {name!r} have different lengths: {lengths}. Give one value an epoch.")
        read = {key: [math.nan if value is None else value for value in values] for key, values in columns.items()}
        logs[_free(name, logs)] = read
    return finish(draw_logs(logs), path)


def _training_name(curve: TrainingCurve) -> str:
    """What fits over a drawing.

    >>> _training_name(TrainingCurve("digits", "magnitude", 8.0, 1, "round-01", (), (), (), (), ()))
    'digits: magnitude, asked 8x, seed 1, round-01'
    """
    dense = curve.method == curve.stage
    name = heading(curve.problem, curve.method, None if dense else curve.amount)
    return f"{name}, seed {curve.seed}" + ("" if dense else f", {curve.stage}")


def _free(name: str, taken: Iterable[str]) -> str:
    taken, number = set(taken), 2
    found = name
    while found in taken:
        found, number = f"{name} ({number})", number + 1
    return found


def sensitivity_curves(curves: Iterable[SensitivityCurve], *, path: Path = None) -> Figure:
    """Accuracy over the sparsity of one layer alone: a panel for each source and granularity, a line for each layer.

    The whole network, where curves begin at sparsity 0, is the dashed line. As `report.sensitivity.plot_sensitivity`
    draws it. Raises `SparsewoodError` if there is no curve, or matplotlib is missing.
    """
    require_matplotlib()
    given = require_some(curves, "curve of sensitivity")
    several = len({one.source for one in given}) > 1
    found: dict[str, dict[str, Curve]] = {}
    baselines: dict[str, float] = {}
    for one in given:
        panel = f"{one.source}: {one.granularity}" if several else one.granularity
        ordered = sorted(zip(one.sparsity, one.accuracy, strict=True))
        shares, values = tuple(x for x, _ in ordered), tuple(y for _, y in ordered)
        found.setdefault(panel, {})[one.layer] = Curve(shares, shares, values)
        if shares and shares[0] == 0:
            baselines.setdefault(panel, values[0])
    title = "" if several else given[0].source
    return finish(draw_curves(found, baselines, factor=100, label="accuracy [%]", title=title), path)


def memorization(of: Memorization, *, path: Path = None) -> Figure:
    """A point for every unit that is not dead, a column for each layer (`report.unit_plots.memorization_scatter`).

    Raises `SparsewoodError` if there is no layer, a score lies outside [0, 1], or matplotlib is missing.
    """
    require_matplotlib()
    scores = {name: [math.nan if one is None else one for one in values] for name, values in of.scores.items()}
    figure = memorization_scatter(scores, of.source)
    figure.axes[0].set_ylabel(of.measure)
    return finish(figure, path)


def memorization_violins(of: Memorization, layer: str, *, path: Path = None) -> Figure:
    """How activations of the units of a layer are spread over examples, the most memorizing unit first.

    As `report.unit_plots.activation_violins`: with quartiles, the mean, and the largest values as points. Raises
    `UnknownName` for a layer without sampled activations, `SparsewoodError` if units have different numbers of them, or
    matplotlib is missing.
    """
    require_matplotlib()
    if layer not in of.activations:
        raise UnknownName.among("layer with activations", layer, of.activations)
    units = require_some(of.activations[layer], f"unit of {layer!r}")
    if len({len(values) for _, values in units}) != 1:
        raise SparsewoodError(f"Units of {layer!r} have different numbers of activations. Sample the same examples.")
    values = np.stack([np.asarray(one, float) for _, one in units], 1)
    figure = activation_violins(values, top=TOP, title=f"{of.source}, {layer}: most memorizing first")
    figure.axes[0].set_xticks(range(len(units)), [str(unit) for unit, _ in units])
    return finish(figure, path)
