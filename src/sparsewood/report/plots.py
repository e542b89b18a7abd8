"""Plots of results. Figures are made directly, so no global state of matplotlib is read or changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sparsewood.errors import OutputError, SparsewoodError
from sparsewood.files import write_atomically
from sparsewood.report.rows import Point, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compression_curves", "new_figure", "require_matplotlib", "save_figure"]

# Okabe and Ito's palette: told apart with any kind of colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
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
        _draw_dense(axes, dense)
        for number, strategy in enumerate(dict.fromkeys(point.strategy for point in points)):
            members = sorted((p for p in points if p.strategy == strategy), key=lambda p: p.compression)
            _draw_strategy(axes, members, measure, number)
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


def _draw_dense(axes: Axes, dense: Summary | None) -> None:
    if dense is None:
        return
    mean, std = 100 * dense.mean, 100 * (dense.std or 0.0)
    axes.axhline(mean, color="0.4", linestyle="--", linewidth=1, label="dense control")
    axes.axhspan(mean - std, mean + std, color="0.4", alpha=0.15, linewidth=0)


def _draw_strategy(axes: Axes, members: Sequence[Point], measure: Measure, number: int) -> None:
    across: list[Summary] = [getattr(point, measure) for point in members]
    axes.errorbar(
        [summary.mean for summary in across],
        [100 * point.post_acc1.mean for point in members],
        xerr=[summary.std or 0.0 for summary in across],
        yerr=[100 * (point.post_acc1.std or 0.0) for point in members],
        label=members[0].strategy,
        color=COLORS[number % len(COLORS)],
        marker=MARKERS[number % len(MARKERS)],
        markersize=5,
        linewidth=1.5,
        capsize=3,
    )
