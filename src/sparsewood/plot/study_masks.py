"""What was removed: how alike masks are, where scores were cut, which units are left, and how much of each layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparsewood.plot.panels import HEAT, WIDTH, Panel, draw, middle_cut, mosaic, places, row_ticks, vacant
from sparsewood.plot.study_sheet import Path, finish, heading, panels, require_some
from sparsewood.report.plots import COLORS, Look, require_matplotlib
from sparsewood.report.study import Histogram, LayerSparsity, Overlap, UnitMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["layer_profile", "mask_overlap", "score_histogram", "unit_maps"]

KEPT, REMOVED = COLORS[0], COLORS[4]
CELL = 0.52  # inches
MOST_NUMBERS = 30
ACROSS = 64  # units in a line


def mask_overlap(overlaps: Iterable[Overlap], *, path: Path = None) -> Figure:
    """A heat map for each comparison, with the Jaccard index of every two masks in it (`report.overlap`).

    Colours go from 0 to 1 in all of them. The title says what independent random masks would have, where that is known:
    from the least to the most of all pairs, or their mean.
    With more than 30 names the numbers are left out. Raises `SparsewoodError` if there is none, or matplotlib is
    missing.
    """
    require_matplotlib()
    given = require_some(overlaps, "overlap of masks")
    most = max(len(one.names) for one in given)
    side = 1.9 + CELL * max(most, 3)
    figure, drawn = panels(len(given), width=side + 0.7, height=side)
    for axes, one in zip(drawn, given, strict=True):
        values = np.asarray(one.matrix, float)
        axes.imshow(values, cmap=HEAT, vmin=0, vmax=1)
        names = [middle_cut(name, 22) for name in one.names]
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=7.5)
        axes.set_yticks(range(len(names)), names, fontsize=7.5)
        axes.tick_params(length=0)
        if len(names) <= MOST_NUMBERS:
            _write_numbers(axes, values)
        between = f"seeds of {one.of}" if one.between == "seeds" and one.of else one.between
        chance = _by_chance(one)
        axes.set_title(f"{heading(one.problem, amount=one.amount)}\nbetween {between}{chance}", fontsize=8.5)
    bar = figure.colorbar(drawn[0].images[0], ax=drawn, shrink=0.7, pad=0.02)
    bar.set_label("kept by both / kept by any of the two", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)
    return finish(figure, path)


def _by_chance(one: Overlap) -> str:
    pairs = [f"{value:.2f}" for number, row in enumerate(one.chances) for value in row[:number]]
    if pairs:
        low, high = min(pairs, key=float), max(pairs, key=float)
        return f"; by chance {low}" if low == high else f"; by chance {low} to {high}, by pair"
    return "" if one.chance is None else f"; by chance {one.chance:.2f}"


def _write_numbers(axes: Axes, values: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(values):
        color = "black" if value > 0.6 else "white"  # the colours go from dark to light
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=color)


def score_histogram(histograms: Iterable[Histogram], *, path: Path = None) -> Figure:
    """Scores of what was kept (blue) and of what was removed (orange), stacked, and a line at the threshold.

    A drawing for each histogram (`report.histograms.histogram` makes them of scores and a mask); where no threshold
    tells the two apart there is no line. Raises `SparsewoodError` if there is none, or matplotlib is missing.
    """
    require_matplotlib()
    given = require_some(histograms, "histogram")
    figure, drawn = panels(len(given), width=4.2, height=2.8)
    for axes, one in zip(drawn, given, strict=True):
        edges, removed = np.asarray(one.edges, float), np.asarray(one.removed, float)
        whole = removed + np.asarray(one.kept, float)
        axes.stairs(whole, edges, baseline=removed, fill=True, color=KEPT, alpha=0.75, label="kept")
        axes.stairs(removed, edges, fill=True, color=REMOVED, alpha=0.75, label="removed")
        if one.threshold is not None:
            axes.axvline(one.threshold, color="0.1", linestyle="--", linewidth=1.2, label="threshold")
        axes.set_xlabel("log10 of the score" if one.logarithm else "score", fontsize=8)
        axes.set_ylabel("entries", fontsize=8)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
        zeros = f", {one.zeros:,} scores of 0 not shown" if one.zeros else ""
        title = heading(one.problem, one.method, one.amount)
        axes.set_title(f"{title}\n{middle_cut(one.layer or 'all layers', 44)}{zeros}", fontsize=7.5, loc="left")
    kinds = {label: handle for axes in drawn for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(kinds.values(), kinds.keys(), loc="outside upper right", ncols=3, fontsize=8, frameon=False)
    return finish(figure, path)


def unit_maps(maps: Iterable[UnitMap], *, path: Path = None) -> Figure:
    """A square for each unit of each layer: which share of its weights is left, from 0 to 1; crossed out: it is gone.

    Units are in order, row by row; the numbers on the left are those of the first in a row. Raises `SparsewoodError` if
    there is none, or matplotlib is missing.
    """
    require_matplotlib()
    given = require_some(maps, "map of units")
    owners = {(one.problem, one.method, one.amount) for one in given}
    titles = [heading(*owner) for owner in owners]
    drawn = [_unit_panel(one, "" if len(titles) == 1 else heading("", one.method, one.amount)) for one in given]
    note = "a square is a unit, in order, row by row; crossed out: nothing of it is left"
    return finish(draw(drawn, titles[0] if len(titles) == 1 else "Units", note, bar="share of weights left"), path)


def _unit_panel(one: UnitMap, of: str) -> Panel:
    kept = np.asarray(one.kept, np.float32)
    tiles = kept.reshape(-1, 1, 1)
    columns = min(len(kept), ACROSS if len(kept) <= 64 * ACROSS else math.ceil(math.sqrt(len(kept))))
    image = mosaic(tiles, columns, 0)
    side = min(0.16, WIDTH / columns)
    gone = kept == 0
    left = f"{int((~gone).sum()):,} of {len(kept):,} units left, {100 * float(kept.mean()):.1f} % of weights"
    boxes = places(tiles, columns, 0)
    crossed = tuple(box for box, lost in zip(boxes, gone, strict=True) if lost) if len(kept) <= 64 * ACROSS else ()
    height = side * image.shape[0]
    return Panel(
        one.layer,
        f"{of}, {left}" if of else left,
        image,
        side * columns,
        height,
        HEAT,
        (0.0, 1.0),
        row_ticks(len(kept), columns, 1, height),
        crossed,
        vacant(tiles, columns, 0),
        bar=False,
        sharp=True,
    )


def layer_profile(layers: Iterable[LayerSparsity], *, path: Path = None) -> Figure:
    """The sparsity of each layer, from the first at the top to the last, of several methods beside one another.

    A drawing for each problem and amount, a line for each method; all drawings of a problem have its layers in the
    order in which they are given. Raises `SparsewoodError` if there is none, or matplotlib is missing.
    """
    require_matplotlib()
    given = require_some(layers, "layer")
    groups: dict[tuple[str, float], list[LayerSparsity]] = {}
    for one in given:
        groups.setdefault((one.problem, one.amount), []).append(one)
    names = {problem: list(dict.fromkeys(x.layer for x in given if x.problem == problem)) for problem, _ in groups}
    most = max(map(len, names.values()))
    figure, drawn = panels(len(groups), width=5.2, height=max(2.6, 1.2 + 0.21 * most))
    methods = list(dict.fromkeys(one.method for one in given))
    for axes, ((problem, amount), own) in zip(drawn, groups.items(), strict=True):
        _draw_profile(axes, own, names[problem], methods)
        axes.set_title(heading(problem, amount=amount), fontsize=9, loc="left")
    kinds = {label: handle for axes in drawn for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(kinds.values(), kinds.keys(), loc="outside right upper", fontsize=8, frameon=False)
    return finish(figure, path)


def _draw_profile(axes: Axes, layers: Sequence[LayerSparsity], names: Sequence[str], methods: Sequence[str]) -> None:
    for number, method in enumerate(methods):
        own = sorted((one for one in layers if one.method == method), key=lambda one: names.index(one.layer))
        if own:
            look = Look.of(number)
            axes.plot(
                [100 * one.sparsity for one in own],
                [names.index(one.layer) for one in own],
                color=look.color,
                marker=look.marker,
                linestyle=look.dashes,
                markersize=5,
                linewidth=1.1,
                label=middle_cut(method, 30),
            )
    axes.set_yticks(range(len(names)), [middle_cut(name, 32) for name in names], fontsize=7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("sparsity [%]", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(alpha=0.3)
