"""Plots of results. Figures are made directly, so no global state of matplotlib is read or changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sparsewood.errors import OutputError, SparsewoodError
from sparsewood.files import write_atomically
from sparsewood.report.rows import Point, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Look", "compression_curves", "draw_dense", "draw_series", "new_figure", "require_matplotlib", "save_figure"]

# Okabe and Ito's palette: told apart with any kind of colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
DENSE = 1.0

Measure = Literal["real_compression", "speedup"]


def compression_curves(points: Sequence[Point], title: str) -> Figure:
    """Accuracy over compression (left) and over theoretical speed-up (right), one line for each strategy.

    Points are means over seeds, bars one sample standard deviation; the x axes are logarithmic to base 2. The points of
    compression 1, if there are any, are the dense control, drawn as a horizontal line. Raises `SparsewoodError` if
    there is no point, or matplotlib is missing.
    """
    if not points:
        raise SparsewoodError("There is nothing to plot: no point was given.")
    figure = new_figure()
    left, right = figure.subplots(1, 2, sharey=True)
    dense = next((point.post_acc1 for point in points if point.compression == DENSE), None)
    panels: tuple[tuple[Axes, Measure], ...] = ((left, "real_compression"), (right, "speedup"))
    for axes, measure in panels:
        if dense is not None:
            draw_dense(axes, dense)
        for number, strategy in enumerate(dict.fromkeys(point.strategy for point in points)):
            members = sorted((p for p in points if p.strategy == strategy), key=lambda p: p.compression)
            across: list[Summary] = [getattr(point, measure) for point in members]
            draw_series(axes, across, [point.post_acc1 for point in members], Look.of(number), strategy)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.grid(alpha=0.3)
    left.set_xlabel("compression: parameters / non-zero parameters")
    right.set_xlabel("theoretical speed-up: multiply-adds / non-zero multiply-adds")
    left.set_ylabel("accuracy after fine-tuning [%]")
    left.legend(loc="lower left")
    seeds = sorted({point.seeds for point in points})
    over = "-".join(str(n) for n in (seeds[0], seeds[-1])) if len(seeds) > 1 else str(seeds[0])
    figure.suptitle(f"{title} (mean and sample standard deviation, seeds: {over})")
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, complete or not at all; the ending of `path` says in which format.

    Raises `OutputError` for an ending that matplotlib writes no pictures of, and for a place that cannot be written to.
    """
    ending = Path(path).suffix.removeprefix(".").lower()
    if ending not in figure.canvas.get_supported_filetypes():
        raise OutputError(
            f"Cannot write file '{path}': its ending, {ending!r}, is no format of pictures. End it in .png, .svg or "
            ".pdf."
        )
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150))


def require_matplotlib() -> None:
    """Raise `SparsewoodError` if matplotlib is missing: to be called before work that ends in a plot."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise SparsewoodError(
            "Plots need matplotlib, which is not installed. Run: pip install 'sparsewood[report]'"
        ) from error


def new_figure(width: float = 11, height: float = 4.8) -> Figure:
    """An empty figure of so many inches that no window and no global state of matplotlib knows of."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@dataclass(frozen=True)
class Look:
    """Colour, marker and dashes of one of several series: also told apart without colours.

    >>> Look.of(0), Look.of(8)
    (Look(color='#0072B2', marker='o', dashes='-'), Look(color='#D55E00', marker='s', dashes='-'))
    >>> len({Look.of(number) for number in range(28)})
    28
    """

    color: str
    marker: str
    dashes: str

    @classmethod
    def of(cls, number: int) -> Look:
        """That of the series of this number."""
        return cls(COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)])


def draw_dense(axes: Axes, accuracy: Summary, *, label: str = "dense control", color: str = "0.4") -> None:
    """A line at the mean accuracy in per cent, and a band of one sample standard deviation above and below."""
    mean, std = 100 * accuracy.mean, 100 * (accuracy.std or 0.0)
    axes.axhline(mean, color=color, linestyle="--", linewidth=1, label=label)
    axes.axhspan(mean - std, mean + std, color=color, alpha=0.15, linewidth=0)


def draw_series(
    axes: Axes,
    across: Sequence[Summary],
    up: Sequence[Summary],
    look: Look,
    label: str,
    *,
    filled: bool = True,
    factor: float = 100,
) -> None:
    """Means, times `factor` (shares are shown in per cent), over means of something, and in both directions one
    sample standard deviation."""
    axes.errorbar(
        [summary.mean for summary in across],
        [factor * summary.mean for summary in up],
        xerr=[summary.std or 0.0 for summary in across],
        yerr=[factor * (summary.std or 0.0) for summary in up],
        label=label,
        color=look.color,
        marker=look.marker,
        linestyle=look.dashes,
        markerfacecolor=look.color if filled else "white",
        markersize=5,
        linewidth=1.5,
        elinewidth=1,
        capsize=3,
    )
