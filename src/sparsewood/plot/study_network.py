"""A network with what is left of it: a box for each module, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsewood.plot.panels import middle_cut
from sparsewood.plot.study_sheet import Path, finish, heading, require_some
from sparsewood.report.plots import COLORS, new_figure, require_matplotlib
from sparsewood.report.study import BoxState, NetworkPicture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["network"]

ROW = 0.42  # inches
MOST = 150  # boxes; a sheet with more is longer than programs show
BEND = 0.035  # how far to the side an edge goes, for each box that it passes


def network(picture: NetworkPicture, *, path: Path = None) -> Figure:
    """A box for each module with parameters, from the first at the top to the last; its coloured part is what is left.

    In the box are its name, kind and shape, beside it the numbers of entries left and of all, and of units where they
    are known. Arrows show what feeds what, those that pass boxes on the right side; without `edges` there are none.
    Beyond 150 boxes the rest is left out, and the title says so.

    Returns a figure of matplotlib that no window knows of. Raises `SparsewoodError` if there is no box, or matplotlib
    is missing.
    """
    require_matplotlib()
    every = require_some(picture.boxes, "module")
    boxes = every[:MOST]
    figure = new_figure(9.2, 0.8 + ROW * len(boxes))
    axes = figure.subplots()
    for place, box in enumerate(boxes):
        _draw_box(axes, place, box)
    places = {box.layer: place for place, box in enumerate(boxes)}
    passing = [_draw_edge(axes, places[a], places[b]) for a, b in picture.edges if a in places and b in places]
    axes.set_ylim(len(boxes) - 0.4, -0.6)
    axes.set_xlim(-0.01, 1.48 + max([*passing, 0.0]))
    axes.set_axis_off()
    entries, left = sum(box.entries for box in every), sum(box.entries_left for box in every)
    share = f"{left:,} of {entries:,} entries left ({100 * left / entries if entries else 0:.2f} %)"
    hidden = f"; the first {MOST} of {len(every)} modules" if len(every) > MOST else ""
    title = heading(picture.problem, picture.method, picture.amount)
    axes.set_title(f"{title}\n{share}{hidden}", fontsize=9, loc="left")
    return finish(figure, path)


def _draw_box(axes: Axes, place: int, box: BoxState) -> None:
    from matplotlib.patches import Rectangle

    share = box.entries_left / box.entries if box.entries else 0.0
    top, height = place - 0.33, 0.66
    axes.add_patch(Rectangle((0, top), share, height, facecolor=COLORS[5], edgecolor="none", alpha=0.55))
    axes.add_patch(Rectangle((0, top), 1, height, facecolor="none", edgecolor="0.35", linewidth=0.8))
    axes.text(0.012, place, middle_cut(box.layer, 40), va="center", fontsize=8, fontweight="bold")
    kind = f"{box.kind} {box.shape}".strip()
    axes.text(0.988, place, middle_cut(kind, 44), va="center", ha="right", fontsize=7.5, color="0.2")
    told = f"{box.entries_left:,} of {box.entries:,} ({100 * share:.1f} %)"
    units = f"\n{box.units_left:,} of {box.units:,} units" if box.units else ""
    axes.text(1.015, place, told + units, va="center", fontsize=7, color="0.2", linespacing=1.05)


def _draw_edge(axes: Axes, start: int, end: int) -> float:
    """An arrow from one box to another; how far to the side it goes, beyond the numbers."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Line

    style = {"arrowstyle": "-|>", "mutation_scale": 7, "color": "0.35", "linewidth": 0.8}
    if end == start + 1:
        axes.add_patch(FancyArrowPatch((0.5, start + 0.33), (0.5, end - 0.33), shrinkA=0, shrinkB=0, **style))
        return 0.0
    aside = min(0.5, BEND * abs(end - start))
    line = Line([(1.34, start), (1.34 + 2 * aside, start), (1.34 + 2 * aside, end), (1.34, end)], [1, 4, 4, 4])
    axes.add_patch(FancyArrowPatch(path=line, **style))
    return 1.5 * aside
