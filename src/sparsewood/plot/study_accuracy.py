"""Accuracy over what a network costs: one panel for each problem, one line for each method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.plot.panels import middle_cut
from sparsewood.plot.study_sheet import Path, finish, of_problem, panels, require_some
from sparsewood.report.fronts import BETTER, Across, pareto_front
from sparsewood.report.plots import Look, draw_dense, draw_series, require_matplotlib
from sparsewood.report.rows import Summary, summarize
from sparsewood.report.study import Row

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIELDS", "accuracy_curves", "can_draw"]

FIELDS: dict[Across, str] = {
    "compression": "compression",
    "speedup": "speedup",
    "bytes": "bytes",
    "latency": "latency",
    "parameters": "size_nz",
}
WORDS: dict[Across, str] = {
    "compression": "compression: parameters / non-zero parameters",
    "speedup": "theoretical speed-up: multiply-adds / non-zero ones",
    "bytes": "bytes of the packed file (left is better)",
    "latency": "latency of one example [ms] (left is better)",
    "parameters": "non-zero parameters (left is better)",
}
RATIOS = ("compression", "speedup")
LETTERS = 48
MOST_LINES = 20  # as on the page: with more, controls of single methods are left out


@dataclass(frozen=True)
class _Point:
    across: Summary
    accuracy: Summary


def accuracy_curves(
    rows: Iterable[Row],
    *,
    across: Across = "compression",
    problem: str | None = None,
    pareto: bool = True,
    path: Path = None,
) -> Figure:
    """Test accuracy over what a network costs: a panel for each problem, a line for each method.

    Points are means over the seeds of a method at one amount, bars one sample standard deviation (n - 1) in both
    directions; the x axis is logarithmic. Networks of controls that are not pruned are a line at their mean with a band
    of one standard deviation; other controls have hollow markers. Methods have the same look in every panel. With more
    than 20 lines, controls of single methods (`Row.of`) are left out, and the label of the y axis says so. Rings and a
    dotted line mark the Pareto front of the means of what is drawn and pruned (`report.fronts.pareto_front`).

    Args:
        rows: networks, as of `Study.rows`. Those without the value on the x axis, or with an infinite one, are left
            out, and the panel says how many.
        across: "compression" or "speedup", where right is better, or "bytes", "latency", "parameters".
        problem: the only one to draw; None is all.
        pareto: whether the front is marked.
        path: a file to write the picture to; its ending says as what (.png, .svg, .pdf).

    Returns a figure of matplotlib that no window knows of. Raises `UnknownName` for another problem or x axis, and
    `SparsewoodError` where no network has that value, or matplotlib is missing.
    """
    require_matplotlib()
    if across not in FIELDS:
        raise UnknownName.among("x axis of accuracy curves", across, FIELDS)
    chosen = of_problem(require_some(rows, "network"), problem)
    problems = list(dict.fromkeys(row.problem for row in chosen))
    chosen, hidden = _readable(chosen)
    known = [row for row in chosen if _known(row, across) or _is_dense(row)]
    if not can_draw(known, across):
        raise SparsewoodError(
            f"There is nothing to draw: of {len(chosen)} networks, no pruned one has a finite {FIELDS[across]!r}. "
            f"Measure it, or draw another of {', '.join(FIELDS)}."
        )
    names = list(dict.fromkeys(_series(row) for row in known if not _is_dense(row)))
    looks = {name: Look.of(number) for number, name in enumerate(names)}
    figure, drawn = panels(len(problems), height=max(3.7, (0.19 * len(names) + 0.6) / math.ceil(len(problems) / 3)))
    for axes, one in zip(drawn, problems, strict=True):
        own = [row for row in known if row.problem == one]
        _draw(axes, own, across, looks, pareto=pareto)
        lacking = sum(row.problem == one for row in chosen) - len(own)
        axes.set_title(one + (f" ({lacking} networks without a value)" if lacking else ""), fontsize=9, loc="left")
    without = f"\nwithout {hidden} controls of single methods" if hidden else ""
    drawn[0].set_ylabel(
        f"test accuracy [%]\nmean and sample standard deviation, {_seeds(known)}{without}", fontsize=8.5
    )
    _legend(figure, drawn)
    return finish(figure, path)


def can_draw(rows: Iterable[Row], across: Across) -> bool:
    """Whether there is a pruned network with a finite value on that axis."""
    return any(_known(row, across) and not _is_dense(row) for row in rows)


def _readable(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Without the controls of single methods if there are too many lines for one drawing, and how many those are."""
    pruned = {_series(row) for row in rows if not _is_dense(row)}
    single = {_series(row) for row in rows if row.role == "control" and row.of}
    if len(pruned) <= MOST_LINES or not single or not pruned - single:
        return list(rows), 0
    return [row for row in rows if _series(row) not in single], len(single)


def _draw(axes: Axes, rows: Sequence[Row], across: Across, looks: dict[tuple[str, str], Look], *, pareto: bool) -> None:
    _draw_controls(axes, [row for row in rows if _is_dense(row)], looks)
    points: list[_Point] = []
    for name, look in looks.items():
        own = [row for row in rows if not _is_dense(row) and _series(row) == name]
        if own:
            found = _points(own, across)
            draw_series(
                axes,
                [point.across for point in found],
                [point.accuracy for point in found],
                look,
                _label(name),
                filled=own[0].role == "method",
            )
            points += found
    _scale(axes, across)
    if pareto and points:
        _mark_front(axes, points, across)
    axes.set_xlabel(WORDS[across], fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


def _draw_controls(axes: Axes, rows: Sequence[Row], looks: dict[tuple[str, str], Look]) -> None:
    """Networks that were not pruned; two that are the same are one line."""
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        groups.setdefault(_series(row), []).append(row.accuracy)
    lines: dict[Summary, list[tuple[str, str]]] = {}
    for name, values in groups.items():
        lines.setdefault(summarize(values), []).append(name)
    for accuracy, names in lines.items():
        owner = (names[0][1], "")
        color = looks[owner].color if len(names) == 1 and owner in looks else "0.4"
        label = _label(names[0]) if len(names) == 1 else names[0][0]
        draw_dense(axes, accuracy, label=label, color=color)


def _points(rows: Sequence[Row], across: Across) -> list[_Point]:
    """One for each amount, ascending, over whatever seeds there are."""
    amounts: dict[float, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.amount):
        amounts.setdefault(row.amount, []).append(row)
    return [
        _Point(
            summarize([getattr(row, FIELDS[across]) for row in members]), summarize([row.accuracy for row in members])
        )
        for members in amounts.values()
    ]


def _mark_front(axes: Axes, points: Sequence[_Point], across: Across) -> None:
    given = [(point.across.mean, 100 * point.accuracy.mean) for point in points]
    better = BETTER[across]
    x, y = zip(*(given[index] for index in pareto_front(given, better=better)), strict=True)
    steps = "steps-pre" if better == "larger" else "steps-post"  # what is reached at that much, or better
    axes.plot(x, y, ":", drawstyle=steps, color="0.45", linewidth=1, zorder=1)
    axes.plot(x, y, "o", color="0.1", markerfacecolor="none", markersize=11, markeredgewidth=1, label="Pareto front")


def _scale(axes: Axes, across: Across) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    if across in RATIOS:
        axes.set_xscale("log", base=2)
        low, high = axes.get_xlim()
        halves = math.log2(high / low) < 2 if low > 0 else False
        axes.xaxis.set_major_locator(LogLocator(base=2, subs=(1, 1.25, 1.5) if halves else (1,)))
    else:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / max(low, 1e-300) < 1e3 else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))


def _short(value: float) -> str:
    """A number with few digits.

    >>> _short(2.0), _short(1500.0), _short(20000.0), _short(5e6), _short(0.25)
    ('2', '1.5k', '20k', '5M', '0.25')
    """
    for letter, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


def _legend(figure: Figure, drawn: Sequence[Axes]) -> None:
    """Each name once, the front at the end."""
    found: dict[str, Artist] = {}
    for axes in drawn:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    labels = sorted(found, key=lambda label: label == "Pareto front")
    figure.legend([found[label] for label in labels], labels, loc="outside right upper", fontsize=8, frameon=False)


def _series(row: Row) -> tuple[str, str]:
    return row.method, row.of if row.role == "control" else ""


def _label(name: tuple[str, str]) -> str:
    method, of = name
    return middle_cut(f"{method} (control of {of})" if of and not method.endswith(of) else method, LETTERS)


def _is_dense(row: Row) -> bool:
    return row.role == "control" and row.amount == 1


def _known(row: Row, across: Across) -> bool:
    value = getattr(row, FIELDS[across])
    return value is not None and bool(np.isfinite(value)) and value > 0


def _seeds(rows: Sequence[Row]) -> str:
    """How many there are of each point.

    >>> _seeds([])
    'seeds: 0'
    """
    groups: dict[tuple[object, ...], int] = {}
    for row in rows:
        key = (row.problem, _series(row), row.amount)
        groups[key] = groups.get(key, 0) + 1
    least, most = min(groups.values(), default=0), max(groups.values(), default=0)
    return f"seeds: {least}" if least == most else f"seeds: {least} to {most}"
