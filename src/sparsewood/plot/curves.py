"""How trainings went: loss and accuracy of every epoch, from the CSV files that runs write."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.plot.panels import middle_cut
from sparsewood.report.plots import COLORS, new_figure, require_matplotlib, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NEEDED", "Columns", "draw_logs", "training"]

NAME = "logs.csv"
LETTERS = 84  # of a title, which goes over both drawings of a pair
NEEDED = ("epoch", "train_loss", "train_acc1", "val_loss", "val_acc1")
Columns = Mapping[str, Sequence[float]]


def training(log: str | os.PathLike[str], *, path: str | os.PathLike[str] | None = None) -> Figure:
    """Loss (left) and accuracy (right) of every epoch, on training data (blue, whole) and validation data (orange).

    `log` is a file that `train.CsvLog` wrote, or a directory: then all of the name logs.csv in it and below, as a run
    leaves them, each with a pair of drawings of its own. Values that a file does not have, as of a training without
    validation data, are not drawn. A last line that an interruption cut short is left out.

    Returns a figure of matplotlib that no window knows of.

    Raises `FileNotFoundError` if there is no such file, `FileFormatError` if one is no log of a training, and
    `SparsewoodError` if a directory has none, no epoch was finished, or matplotlib is missing.

    >>> import tempfile
    >>> text = "epoch,train_loss,train_acc1,val_loss,val_acc1\\n1,0.7,0.5,0.8,0.4\\n2,0.5,0.6,0.7,0.5\\n"
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     _ = Path(directory, "logs.csv").write_text(text)
    ...     figure = training(directory)
    >>> [line.get_ydata().tolist() for line in figure.axes[0].lines]
    [[0.7, 0.5], [0.8, 0.7]]
    """
    require_matplotlib()
    figure = draw_logs(_logs(Path(log)))
    if path is not None:
        save_figure(figure, os.fspath(path))
    return figure


def draw_logs(logs: Mapping[str, Columns]) -> Figure:
    """A pair of drawings, loss and accuracy, for each training: by its name its columns (`NEEDED`), NaN = not known."""
    pairs = max(1, min(len(logs), round(math.sqrt(len(logs) / 3))))
    rows = math.ceil(len(logs) / pairs)
    figure = new_figure(max(6.4, 6.0 * pairs), max(2.9, 2.1 * rows + 0.5))
    grid = figure.subplots(rows, 2 * pairs, squeeze=False)
    for axes in grid.flat[2 * len(logs) :]:
        axes.remove()
    for number, (name, columns) in enumerate(logs.items()):
        left, right = grid.flat[2 * number], grid.flat[2 * number + 1]
        _draw(left, columns, "loss", "loss", 1)
        _draw(right, columns, "acc1", "accuracy [%]", 100)
        left.set_title(middle_cut(name, LETTERS), fontsize=8, loc="left")
    drawn = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in grid.flat[: 2 * len(logs)]]
    kinds = {label: handle for pairs in drawn for handle, label in pairs}
    figure.legend(kinds.values(), kinds.keys(), loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    return figure


def _draw(axes: Axes, columns: Columns, what: str, label: str, factor: float) -> None:
    from matplotlib.ticker import MaxNLocator

    for kind, words, color, style in (("train", "training", COLORS[0], "-"), ("val", "validation", COLORS[1], "--")):
        values = [factor * value for value in columns[f"{kind}_{what}"]]
        if not all(map(math.isnan, values)):
            axes.plot(
                columns["epoch"], values, style, color=color, marker="o", markersize=2.5, linewidth=1.3, label=words
            )
    axes.set_xlabel("epoch", fontsize=7.5)
    axes.set_ylabel(label, fontsize=7.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=6.5)
    axes.grid(alpha=0.3)


def _logs(place: Path) -> dict[str, Columns]:
    if not place.is_dir():
        return {place.name: _read(place)}
    paths = sorted(place.rglob(NAME))
    if not paths:
        raise SparsewoodError(f"'{place}' has no file {NAME} in it or below. Give the directory of a run, or a log.")
    common = Path(os.path.commonpath([path.parent for path in paths]))
    if len(paths) == 1:
        common = common.parent
    return {path.parent.relative_to(common).as_posix(): _read(path) for path in paths}


def _read(path: Path) -> Columns:
    """The columns of a log; what is not known is NaN."""
    with path.open(encoding="utf-8", newline="") as stream:
        lines = [line for line in stream if line.endswith("\n")]
    reader = csv.DictReader(lines)
    names = reader.fieldnames or []
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise FileFormatError(f"'{path}' is no log of a training: it has no column {', '.join(missing)}.")
    columns: dict[str, list[float]] = {name: [] for name in NEEDED}
    for row in reader:
        try:
            for name, values in columns.items():
                values.append(math.nan if row[name] == "" else float(row[name]))
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"'{path}', line {reader.line_num}: not an epoch of a training ({error}).") from error
    if not columns["epoch"]:
        raise SparsewoodError(f"'{path}' has no epoch that was finished, so there is nothing to draw.")
    return columns
