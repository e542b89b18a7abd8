"""How much a network loses when one of its layers is pruned: rows, and the tables, curves and files made of them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from sparsewood.errors import FileFormatError, SparsewoodError, UnknownName
from sparsewood.files import write_atomically
from sparsewood.report.plots import COLORS, MARKERS, new_figure, save_figure
from sparsewood.report.rows import to_csv
from sparsewood.report.table import Table, as_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Curve", "Measure", "Sensitivity", "SensitivityRow", "plot_sensitivity"]

Measure = Literal["top1", "top5", "loss"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
ROUNDING = 1e-9  # 0.97 - 0.96 is a little more than 0.01


@dataclass(frozen=True)
class SensitivityRow:
    """The network with one layer pruned. The first five columns are those of Distiller
    (https://intellabs.github.io/distiller/pruning.html#sensitivity-analysis), but accuracies are shares, not per cent.

    `sparsity` is the share of units that was asked for, `achieved` the share that went: there is a whole number of
    units, and one stays. `top5` is None where there are five classes or fewer, `top1` where the network does not
    classify. `samples` is how many examples these are of; `fingerprint` tells networks and settings apart.
    """

    parameter: str
    sparsity: float
    top1: float | None
    top5: float | None
    loss: float
    granularity: str
    achieved: float
    samples: int
    fingerprint: str


@dataclass(frozen=True)
class Curve:
    """One layer: what was asked for, ascending from 0, what went, and what the network then came to."""

    amounts: tuple[float, ...]
    achieved: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Sensitivity:
    """What `sparsewood.sensitivity` found. Rows of sparsity 0 are the whole network.

    >>> rows = [SensitivityRow("fc", at, 0.9 - at / 5, None, 1.0, "Filter", at, 10, "") for at in (0.0, 0.25, 0.5)]
    >>> Sensitivity(tuple(rows)).ranking(max_drop=0.06)
    {'Filter': {'fc': 0.25}}
    >>> print(Sensitivity(tuple(rows)))
    top1 [%] with one layer pruned; whole network 90.00
    layer   units   0.25    0.5
    -----  ------  -----  -----
    fc     Filter  85.00  80.00
    """

    rows: tuple[SensitivityRow, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not any(row.sparsity == 0 for row in self.rows):
            raise SparsewoodError(
                "A sensitivity needs a row of sparsity 0, the whole network to compare with. "
                f"Got {len(self.rows)} rows without one."
            )

    def __str__(self) -> str:
        return as_text(self.table())

    @property
    def baseline(self) -> SensitivityRow:
        """The whole network."""
        return next(row for row in self.rows if row.sparsity == 0)

    def curves(self, measure: Measure | None = None) -> dict[str, dict[str, Curve]]:
        """What there is to plot: by granularity, by layer, one value of the measure for each amount.

        The measure is top1 if nothing else is said, and the loss where the network does not classify. Raises
        `UnknownName` for another measure, and `SparsewoodError` for one that the network does not have.
        """
        measure = self.measure(measure)
        found: dict[str, dict[str, list[SensitivityRow]]] = {}
        for row in self.rows:
            found.setdefault(row.granularity, {}).setdefault(row.parameter, []).append(row)
        return {units: {name: _curve(rows, measure) for name, rows in its.items()} for units, its in found.items()}

    def ranking(self, max_drop: float = 0.01, measure: Measure | None = None) -> dict[str, dict[str, float]]:
        """For each granularity which share of its units each layer can lose: the most up to which no drop is larger.

        It is the share that went at the largest amount before the first drop above `max_drop`, 0 if already the least
        amount is too much. The most sensitive layer comes first; of equal ones that with the larger mean drop. The drop
        of an accuracy is baseline - value, of a loss value - baseline. The mapping of one granularity can be the
        `scope` of `prune` (with protect_classifier=False if the classifier is among them), which then removes exactly
        these units; what layers can lose together is less.

        Raises `SparsewoodError` unless max_drop >= 0, and as `curves` does.
        """
        if isinstance(max_drop, bool) or not isinstance(max_drop, int | float) or not max_drop >= 0:
            raise SparsewoodError(f"max_drop must be a number >= 0. Got {max_drop!r}.")
        sign = -1 if self.measure(measure) == "loss" else 1
        found = {}
        for units, layers in self.curves(measure).items():
            drops = {
                name: [sign * (curve.values[0] - value) for value in curve.values] for name, curve in layers.items()
            }
            allowed = {name: _allowed(layers[name].achieved, drops[name], max_drop) for name in layers}
            mean = {name: sum(drops[name]) / len(drops[name]) for name in layers}
            found[units] = {name: allowed[name] for name in sorted(layers, key=lambda n: (allowed[n], -mean[n]))}
        return found

    def table(self, measure: Measure | None = None) -> Table:
        """One line for each granularity and layer, one column for each amount; accuracies in %."""
        measure, curves = self.measure(measure), self.curves(measure)
        amounts = sorted({row.sparsity for row in self.rows if row.sparsity > 0})
        rows = []
        for units, layers in curves.items():
            for name, curve in layers.items():
                cells = dict(zip(curve.amounts, curve.values, strict=True))
                told = (_shown(cells[amount], measure) if amount in cells else "-" for amount in amounts)
                rows.append((name, units, *told))
        whole = _shown(_value(self.baseline, measure), measure)
        unit = measure if measure == "loss" else f"{measure} [%]"
        headers = ("layer", "units", *(f"{amount:g}" for amount in amounts))
        return Table(f"{unit} with one layer pruned; whole network {whole}", headers, tuple(rows))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as CSV, complete or not at all. Raises `OutputError` if that cannot be done."""
        text = to_csv(self.rows)
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> Sensitivity:
        """Read what `to_csv` wrote, or what `sparsewood.sensitivity` wrote so far: an unfinished last line is no row.

        Raises `FileNotFoundError`, `FileFormatError` naming file and line, `SparsewoodError` if there is no row yet.
        """
        return cls(tuple(parse_rows(finished_lines(Path(path).read_text(encoding="utf-8")), str(path))))

    def measure(self, wanted: str | None) -> Measure:
        """The measure of that name; without one, top1 if the network has it, else the loss. Raises as `curves` does."""
        if wanted is None:
            return "loss" if self.baseline.top1 is None else "top1"
        for measure in MEASURES:
            if measure == wanted:
                _value(self.baseline, measure)
                return measure
        raise UnknownName.among("measure of a sensitivity", wanted, MEASURES)


def plot_sensitivity(
    sensitivity: Sensitivity, path: str | Path | None = None, *, measure: Measure | None = None, title: str = ""
) -> Figure:
    """The measure over what went of a layer: a panel for each granularity, a line for each layer; accuracies in %.

    The whole network is the dashed line. More layers than there are colours are coloured by depth, dark to light.
    Written to `path` if there is one. Raises as `Sensitivity.curves` does, and if matplotlib is missing.
    """
    measure, curves = sensitivity.measure(measure), sensitivity.curves(measure)
    factor, label = (1, measure) if measure == "loss" else (100, f"{measure} [%]")
    baselines = dict.fromkeys(curves, _value(sensitivity.baseline, measure))
    figure = draw_curves(curves, baselines, factor=factor, label=label, title=title)
    if path is not None:
        save_figure(figure, path)
    return figure


def draw_curves(
    curves: Mapping[str, Mapping[str, Curve]],
    baselines: Mapping[str, float],
    *,
    factor: float,
    label: str,
    title: str = "",
) -> Figure:
    """A panel for each granularity with a line for each layer; values times `factor`, and so the dashed baselines."""
    figure = new_figure()
    panels: Sequence[Axes] = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(name for layers in curves.values() for name in layers))
    for axes, (units, layers) in zip(panels, curves.items(), strict=True):
        if units in baselines:
            axes.axhline(factor * baselines[units], color="0.4", linestyle="--", linewidth=1)
        for name, curve in layers.items():
            color, marker = _look(names.index(name), len(names))
            values = [factor * value for value in curve.values]
            axes.plot(curve.achieved, values, label=name, color=color, marker=marker, markersize=4, linewidth=1.3)
        axes.set_title(units)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(alpha=0.3)
    figure.supxlabel("share of the layer's units that went", fontsize="medium")
    panels[0].set_ylabel(label)
    lines = {str(line.get_label()): line for axes in panels for line in axes.lines}
    figure.legend([lines[name] for name in names], names, loc="outside right upper", fontsize="small")
    if title:
        figure.suptitle(title)
    return figure


# ---------------------------------------------------------------- files


def finished_lines(text: str) -> str:
    """The text without a last line that has no end, as a process that was killed leaves it.

    >>> finished_lines("a,b\\n1,2\\n3")
    'a,b\\n1,2\\n'
    """
    return text[: text.rfind("\n") + 1]


def parse_rows(text: str, source: str) -> list[SensitivityRow]:
    """The rows of a CSV text. Raises `FileFormatError` naming the line that is none, in `source`."""
    readers = {"str": str, "float": float, "int": int, "float | None": lambda cell: float(cell) if cell else None}
    columns = {one.name: readers[str(one.type)] for one in fields(SensitivityRow)}
    reader = csv.reader(io.StringIO(text, newline=""))
    header = next(reader, None)
    if header is not None and header != list(columns):
        raise FileFormatError(f"'{source}' is no file of a sensitivity: its columns are {header}, not {list(columns)}.")
    rows = []
    for cells in reader:
        try:
            read = zip(columns.items(), cells, strict=True)
            rows.append(SensitivityRow(**{name: convert(cell) for (name, convert), cell in read}))  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            raise FileFormatError(
                f"'{source}', line {reader.line_num}: not a row of a sensitivity ({error}). Remove the line."
            ) from error
    return rows


# ---------------------------------------------------------------- one row, one curve


def _value(row: SensitivityRow, measure: Measure) -> float:
    value: float | None = getattr(row, measure)
    if value is None:
        raise SparsewoodError(
            f"There is no {measure} of this network: it needs class scores, and more classes than that. "
            "Ask for another measure, such as 'loss'."
        )
    return value


def _curve(rows: Sequence[SensitivityRow], measure: Measure) -> Curve:
    ordered = sorted(rows, key=lambda row: row.sparsity)
    return Curve(
        tuple(row.sparsity for row in ordered),
        tuple(row.achieved for row in ordered),
        tuple(_value(row, measure) for row in ordered),
    )


def _allowed(achieved: Sequence[float], drops: Sequence[float], most: float) -> float:
    """The last share before the first drop that is too large."""
    allowed = 0.0
    for share, drop in zip(achieved, drops, strict=True):
        if drop > most + ROUNDING:
            break
        allowed = share
    return allowed


def _shown(value: float, measure: Measure) -> str:
    return f"{value:.4g}" if measure == "loss" else f"{100 * value:.2f}"


def _look(number: int, total: int) -> tuple[object, str]:
    """Colour and marker of one of so many layers."""
    marker = MARKERS[number % len(MARKERS)]
    if total <= len(COLORS):
        return COLORS[number], marker
    from matplotlib import colormaps

    return colormaps["viridis"](0.95 * number / (total - 1)), marker
