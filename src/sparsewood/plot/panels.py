"""Many small maps on one sheet: mosaics of tiles, each with a title, placed by hand so that text never covers a map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sparsewood.errors import SparsewoodError
from sparsewood.report.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "DIVERGING",
    "HEAT",
    "WIDTH",
    "Panel",
    "draw",
    "middle_cut",
    "mosaic",
    "places",
    "require_most",
    "row_ticks",
    "vacant",
]

# Both are told apart with any kind of colour vision; the first is white in the middle.
DIVERGING, HEAT = "RdBu_r", "viridis"
WIDTH = 4.8  # of the maps of one panel, inches
GAP_COLOR = "0.7"
CROSS_COLOR = "0.35"
_LEFT, _RIGHT, _ABOVE, _BELOW, _HEAD = 0.5, 0.62, 0.46, 0.16, 0.56
_NAME, _DETAIL = 70, 92  # letters of a title that fit into a panel
BAR = 0.36  # a bar of colours under the title takes so much

Box = tuple[float, float, float, float]
"""left, top, right, bottom, in pixels of an image."""


@dataclass(frozen=True)
class Panel:
    """One image and what stands beside it.

    Attributes:
        image: [rows, columns], where NaN is a gap, or [rows, columns, 3].
        width, height: inches; the width is at most `WIDTH`.
        limits: the values of the first and the last colour.
        ticks: positions in rows of the image, and what is written there.
        crossed: boxes with a diagonal cross.
        empty: the box after the last tile of a mosaic, which stays white.
        bar: whether the colours are explained beside it.
        sharp: whether pixels keep their edges also where several of them fall on one dot.
    """

    name: str
    detail: str
    image: np.ndarray
    width: float
    height: float
    colors: str
    limits: tuple[float, float]
    ticks: tuple[tuple[float, ...], tuple[str, ...]] = ((), ())
    crossed: tuple[Box, ...] = ()
    empty: Box | None = None
    bar: bool = True
    sharp: bool = False


def mosaic(tiles: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Tiles [n, height, width] row by row, with a frame of `gap` NaN around each.

    >>> mosaic(np.array([[[1.0]], [[2.0]], [[3.0]]]), 2)
    array([[nan, nan, nan, nan, nan],
           [nan,  1., nan,  2., nan],
           [nan, nan, nan, nan, nan],
           [nan,  3., nan, nan, nan],
           [nan, nan, nan, nan, nan]], dtype=float32)
    """
    count, height, width = tiles.shape
    rows = math.ceil(count / columns)
    sheet = np.full((gap + rows * (height + gap), gap + columns * (width + gap)), np.nan, np.float32)
    for tile, (left, top, right, bottom) in zip(tiles, places(tiles, columns, gap), strict=True):
        sheet[top:bottom, left:right] = tile
    return sheet


def places(tiles: np.ndarray, columns: int, gap: int) -> list[tuple[int, int, int, int]]:
    """Where each tile is in its mosaic: left, top, right, bottom, in pixels."""
    count, height, width = tiles.shape
    down, across = height + gap, width + gap
    corners = [(gap + number % columns * across, gap + number // columns * down) for number in range(count)]
    return [(left, top, left + width, top + height) for left, top in corners]


def vacant(tiles: np.ndarray, columns: int, gap: int) -> Box | None:
    """The box in the last row of a mosaic that has no tiles; None if the row is full."""
    count, height, width = tiles.shape
    last = count % columns
    if not last:
        return None
    left, top = gap + last * (width + gap), gap + count // columns * (height + gap)
    return left, top, gap + columns * (width + gap), top + height + gap


def row_ticks(count: int, columns: int, pitch: float, height: float) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """The number of the first tile of each row of a mosaic, and every so many rows only if there are many of them.

    `pitch` is the height of a row of tiles in pixels, `height` that of all of them in inches.
    """
    rows = math.ceil(count / columns)
    step = max(1, math.ceil(rows * 0.13 / height))
    labelled = range(0, rows, step)
    return tuple(pitch * (row + 0.5) for row in labelled), tuple(str(row * columns) for row in labelled)


def require_most(most: int | None) -> None:
    """Raise `SparsewoodError` unless `most` is None or a whole number of at least 1."""
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise SparsewoodError(f"The 'most' to show must be a whole number >= 1, or None for all. Got {most!r}.")


def middle_cut(text: str, letters: int) -> str:
    """At most so many letters: the middle gives way, as names of modules differ at their ends.

    >>> middle_cut("encoder.layers.11.mlp", 13), middle_cut("conv", 13)
    ('encod...1.mlp', 'conv')
    """
    if len(text) <= letters:
        return text
    kept = letters - 3
    return f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"


def draw(panels: Sequence[Panel], title: str, note: str, *, bar: str = "") -> Figure:
    """All panels, from top to bottom and then from left to right, on a sheet that is about as wide as it is high.

    With `bar`, words that say what colours are, those of the first panel are explained once, under the title.
    """
    box = _LEFT + WIDTH + _RIGHT
    heights = [_ABOVE + panel.height + _BELOW for panel in panels]
    columns = split(heights, round(math.sqrt(sum(heights) / box)))
    width = len(columns) * box + 0.1
    head = _HEAD + (BAR if bar else 0)
    height = head + max(sum(heights[number] for number in column) for column in columns)
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    figure.text(_LEFT / width, 1 - 0.2 / height, title, fontsize=10, va="center", fontweight="bold")
    figure.text(_LEFT / width, 1 - 0.42 / height, note, fontsize=7.5, va="center", color="0.3")
    for place, column in enumerate(columns):
        top = height - head
        for number in column:
            _place(figure, panels[number], place * box + _LEFT, top)
            top -= heights[number]
    if bar:
        _explain_colors(figure, panels[0].limits, bar)
    return figure


def split(heights: Sequence[float], columns: int) -> list[range]:
    """Panels in at most so many columns, in order, the highest of which is about as low as it can be.

    >>> split([1, 1, 1, 3], 2), split([2], 3)
    ([range(0, 3), range(3, 4)], [range(0, 1)])
    """
    columns = max(1, min(columns, len(heights)))
    most = max(*heights, sum(heights) / columns) if len(heights) > 1 else heights[0]
    while True:
        found, first, filled = [], 0, 0.0
        for number, height in enumerate(heights):
            if filled + height > most * (1 + 1e-9) and number > first:
                found.append(range(first, number))
                first, filled = number, 0.0
            filled += height
        found.append(range(first, len(heights)))
        if len(found) <= columns:
            return found
        most *= 1.02


def _explain_colors(figure: Figure, limits: tuple[float, float], words: str) -> None:
    width, height = figure.get_size_inches()
    side = (_LEFT / width, 1 - (_HEAD + 0.1) / height, 1.5 / width, 0.1 / height)
    bar = figure.colorbar(
        figure.axes[0].images[0], cax=figure.add_axes(side, label="colours"), orientation="horizontal"
    )
    bar.set_ticks([limits[0], sum(limits) / 2, limits[1]])
    bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    bar.ax.tick_params(labelsize=6, length=2, pad=1)
    figure.text((_LEFT + 1.7) / width, 1 - (_HEAD + 0.05) / height, words, fontsize=7, va="center", color="0.3")


def _place(figure: Figure, panel: Panel, left: float, top: float) -> None:
    """Draw one panel; `left` and `top` are the corner of its box, in inches from the sheet's lower left corner."""
    width, height = figure.get_size_inches()
    bottom = top - _ABOVE - panel.height
    box = (left / width, bottom / height, panel.width / width, panel.height / height)
    axes = figure.add_axes(box, label=panel.name)
    for text, up, style in (
        (middle_cut(panel.name, _NAME), 0.25, {"fontsize": 8, "fontweight": "bold"}),
        (middle_cut(panel.detail, _DETAIL), 0.1, {"fontsize": 7, "color": "0.3"}),
    ):
        axes.text(0, 1 + up / panel.height, text, transform=axes.transAxes, va="center", **style)
    _show(axes, panel)
    if panel.bar and panel.image.ndim == 2:
        side = ((left + panel.width + 0.06) / width, box[1], 0.08 / width, box[3])
        bar = figure.colorbar(axes.images[0], cax=figure.add_axes(side, label=f"colours of {panel.name}"))
        bar.set_ticks([*panel.limits] if panel.limits[0] < panel.limits[1] else [panel.limits[0]])
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
        bar.ax.tick_params(labelsize=6, length=2, pad=1)
        bar.outline.set_linewidth(0.4)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]


def _show(axes: Axes, panel: Panel) -> None:
    import matplotlib
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    interpolation = "nearest" if panel.sharp else "antialiased"
    if panel.image.ndim == 2:
        low, high = panel.limits
        colors = matplotlib.colormaps[panel.colors].with_extremes(bad=GAP_COLOR)
        shown = np.clip(panel.image, low, high)  # NaN stays
        axes.imshow(shown, cmap=colors, vmin=low, vmax=high, aspect="auto", interpolation=interpolation)
    else:
        axes.imshow(panel.image, aspect="auto", interpolation=interpolation)
    if panel.empty is not None:
        left, top, right, bottom = panel.empty
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, color="white", linewidth=1))
    if panel.crossed:
        boxes = np.asarray(panel.crossed, float) - 0.5
        falling, rising = boxes.reshape(-1, 2, 2), boxes[:, [0, 3, 2, 1]].reshape(-1, 2, 2)
        axes.add_collection(
            LineCollection(np.concatenate([falling, rising]), colors=CROSS_COLOR, linewidths=0.7)  # pyright: ignore[reportArgumentType]
        )
    positions, labels = panel.ticks
    axes.set_xticks([])
    axes.set_yticks([position - 0.5 for position in positions], labels, fontsize=6)
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
