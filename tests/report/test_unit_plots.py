"""Pictures of units (000-14): what is drawn are the numbers; dead units and equal numbers are no trouble."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparsewood.errors import SparsewoodError
from sparsewood.report.plots import save_figure
from sparsewood.report.unit_plots import activation_violins, image_grid, memorization_scatter

pytest.importorskip("matplotlib")
SCORES = {"conv1": [0.0, 0.5, 1.0, np.nan], "conv2": [0.25] * 500, "fc": [0.0]}


def test_000_14_every_unit_is_a_point_in_the_column_of_its_layer() -> None:
    axes = memorization_scatter(SCORES, "Title").axes[0]
    assert axes.get_ylim() == (-0.05, 1.05)
    assert [text.get_text() for text in axes.get_xticklabels()] == list(SCORES)
    points = [np.asarray(one.get_offsets()) for one in axes.collections]
    for number, (own, scores) in enumerate(zip(points, SCORES.values(), strict=True)):
        np.testing.assert_array_equal(own[:, 1], [one for one in scores if not np.isnan(one)])
        assert np.all(np.abs(own[:, 0] - number) < 0.5)
    assert len(set(points[1][:, 0])) == 500, "points of one score do not hide one another"


def test_000_14_every_second_layer_has_a_band() -> None:
    bands = memorization_scatter(SCORES).axes[0].patches
    assert [(band.get_x(), band.get_width()) for band in bands] == [(0.5, 1.0)]  # pyright: ignore[reportAttributeAccessIssue]


def test_the_same_scores_make_the_same_picture() -> None:
    one, two = (memorization_scatter(SCORES).axes[0].collections[1].get_offsets() for _ in range(2))
    np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


def test_000_14_violins_have_quartiles_mean_and_largest() -> None:
    values = np.stack([np.arange(5.0), np.zeros(5), np.array([0, 0, 0, 0, 9.0])], 1)
    axes = activation_violins(values, top=2).axes[0]
    bodies = [one for one in axes.collections if type(one).__name__ in ("FillBetweenPolyCollection", "PolyCollection")]
    assert len(bodies) == 2, "a dead unit has no density"
    bars = [one.get_segments()[0] for one in axes.collections if type(one).__name__ == "LineCollection"]
    assert [tuple(bar[:, 1]) for bar in bars[::2]] == [(1, 3), (0, 0), (0, 0)]
    assert [bar[0, 1] for bar in bars[1::2]] == [2, 0, 0]
    points = [np.asarray(one.get_offsets()) for one in axes.collections if type(one).__name__ == "PathCollection"]
    assert [one[0, 1] for one in points[::2]] == pytest.approx([2, 0, 1.8])
    assert [one[:, 1].tolist() for one in points[1::2]] == [[3, 4], [0, 0], [0, 9]]


def test_violins_of_some_units_and_of_one_example() -> None:
    axes = activation_violins(np.array([[1.0, 2.0, 3.0]]), [2, 0]).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "0"]


def test_images_are_shown_with_their_captions(tmp_path: Path) -> None:
    grey, colour, many = (np.full((channels, 4, 5), 0.5) for channels in (1, 3, 6))
    figure = image_grid({"a": [("one", grey), ("two", colour)], "b": [("three", many)], "c": []}, "Title")
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["one", "two", "three"]
    assert [axes.images[0].get_array().shape for axes in shown] == [(4, 5), (4, 5, 3), (4, 5)]  # pyright: ignore[reportOptionalMemberAccess]
    save_figure(figure, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: memorization_scatter({}), "no layer was given"),
        (lambda: memorization_scatter({"a": [0.5, 1.5]}), r"lies in \[0, 1\]. Got 0.5 to 1.5 in 'a'"),
        (lambda: image_grid({"a": []}), "no image was given"),
        (lambda: activation_violins(np.zeros(3)), r"\[examples, units\]"),
        (lambda: activation_violins(np.full((2, 2), np.nan)), "finite numbers"),
        (lambda: activation_violins(np.zeros((2, 2)), [2]), r"some of 0 to 1. Got \[2\]"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw: Callable[[], object], message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        draw()
