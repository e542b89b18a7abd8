"""Plots: what is drawn is what the rows say, and matplotlib's global state is left alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from sparsewood.errors import OutputError, SparsewoodError
from sparsewood.report.plots import compression_curves, save_figure
from sparsewood.report.rows import Point, Result, Summary, aggregate, read_csv, to_csv


def point(strategy: str, compression: float, accuracy: float, std: float | None = 0.02) -> Point:
    half = Summary(accuracy, std)
    work = Summary(1e6 / compression, 0.0)
    ratio, speedup = Summary(compression, 0.0), Summary(compression / 2, 0.1)
    return Point(strategy, compression, 3, ratio, work, speedup, half, half, half, half)


POINTS = [point("a", 1.0, 0.9), point("a", 8.0, 0.7), point("b", 1.0, 0.9), point("b", 8.0, 0.5)]


def test_curves_are_the_means_with_deviations() -> None:
    left, right = compression_curves(POINTS, "Title").axes
    for axes, across in ((left, [1.0, 8.0]), (right, [0.5, 4.0])):
        for container, means in zip(axes.containers, ([90.0, 70.0], [90.0, 50.0]), strict=True):
            line, _, (_, vertical) = container.lines
            np.testing.assert_allclose(np.asarray(line.get_xdata(), float), across)
            np.testing.assert_allclose(np.asarray(line.get_ydata(), float), means)
            lengths = [np.ptp(segment[:, 1]) for segment in vertical.get_segments()]
            np.testing.assert_allclose(lengths, [4.0, 4.0])


def test_axes_are_labelled_and_logarithmic_to_base_two() -> None:
    figure = compression_curves(POINTS, "Title")
    left, right = figure.axes
    for axes in (left, right):
        assert axes.get_xscale() == "log"
        assert axes.xaxis.get_transform().base == 2  # pyright: ignore[reportAttributeAccessIssue]
        assert axes.get_xlabel()
    assert left.get_ylabel() == "accuracy after fine-tuning [%]"
    legend = left.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["dense control", "a", "b"]


def test_the_control_is_a_line_at_its_mean() -> None:
    left, _ = compression_curves(POINTS, "").axes
    control = next(line for line in left.lines if line.get_label() == "dense control")
    np.testing.assert_allclose(control.get_ydata(), [90.0, 90.0])


def test_single_seeds_and_no_control_can_be_drawn() -> None:
    left, _ = compression_curves([point("a", 8.0, 0.7, None)], "").axes
    assert all(line.get_label() != "dense control" for line in left.lines)


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(SparsewoodError, match="no point"):
        compression_curves([], "")


def test_written_whole_without_touching_pyplot(tmp_path: Path) -> None:
    loaded = "matplotlib.pyplot" in sys.modules
    save_figure(compression_curves(POINTS, ""), tmp_path / "curve.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert ("matplotlib.pyplot" in sys.modules) == loaded
    with pytest.raises(OutputError, match="missing"):
        save_figure(compression_curves(POINTS, ""), tmp_path / "missing" / "curve.png")


def test_missing_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SparsewoodError, match=r"pip install 'sparsewood\[report\]'"):
        compression_curves(POINTS, "")


def test_004_15_curves_are_drawn_again_from_the_written_rows(tmp_path: Path) -> None:
    """The file alone gives the same curves, of several ways of pruning at several ratios."""
    rows = [
        Result(
            "digits", "net", strategy, ratio, 80, 10, ratio, 160, 40, ratio / 2, 0.9 / ratio, 1.0,
            0.9 - ratio / 100 - shift, 1.0, seed, 64, 3, "SGD", 0.1, 3, "masks_summary.csv",
        )
        for shift, strategy in ((0.0, "one_shot"), (0.01, "iterative"))
        for ratio in (1.0, 2.0, 8.0)
        for seed in (1, 2)
    ]  # fmt: skip
    path = tmp_path / "results.csv"
    path.write_text(to_csv(rows), encoding="utf-8")
    written, again = (lines_of(compression_curves(aggregate(found), "")) for found in (rows, read_csv(path)))
    assert written == again
    assert again[:2] == [[89.0, 88.0, 82.0], [88.0, 87.0, 81.0]]


def lines_of(figure: Figure) -> list[list[float]]:
    """The heights of every curve, to a thousandth of a percent."""
    curves = [container.lines[0] for axes in figure.axes for container in axes.containers]  # pyright: ignore[reportAttributeAccessIssue]
    return [np.asarray(curve.get_ydata(), float).round(3).tolist() for curve in curves]
