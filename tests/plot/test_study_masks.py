"""Pictures of masks, scores, units and layers: what is drawn are the numbers of the records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsewood.errors import SparsewoodError
from sparsewood.plot import layer_profile, mask_overlap, score_histogram, unit_maps
from sparsewood.report.histograms import histogram
from sparsewood.report.overlap import chance_overlaps, mask_overlaps, mean_overlap
from sparsewood.report.study import LayerSparsity, Overlap, UnitMap

GENERATOR = torch.Generator().manual_seed(0)


def overlap(count: int = 3, chance: float | None = 0.25) -> Overlap:
    masks = {f"m{n}": {"w": torch.rand(20, generator=GENERATOR) < 0.3} for n in range(count)}
    return Overlap("digits", 4.0, "methods", "", tuple(masks), mask_overlaps(masks), chance)


def test_overlaps_are_heat_maps_with_numbers() -> None:
    given = overlap()
    axes, bar = mask_overlap([given]).axes
    (image,) = axes.images
    np.testing.assert_array_equal(np.asarray(image.get_array()), given.matrix)
    assert image.get_clim() == (0, 1)
    written = [float(text.get_text()) for text in axes.texts]
    np.testing.assert_allclose(written, np.ravel(given.matrix), atol=0.005)
    assert [text.get_text() for text in axes.get_xticklabels()] == list(given.names)
    assert axes.get_title() == "digits: asked 4x\nbetween methods; by chance 0.25"
    assert bar.get_ylabel() == "kept by both / kept by any of the two"


def test_chance_is_said_from_the_least_to_the_most_of_all_pairs() -> None:
    chances = ((1.0, 0.05, 0.3), (0.05, 1.0, 0.2), (0.3, 0.2, 1.0))
    title = mask_overlap([replace(overlap(), chances=chances)]).axes[0].get_title()
    assert title.endswith("between methods; by chance 0.05 to 0.30, by pair")
    alike = tuple(tuple(1.0 if i == j else 0.05 for j in range(3)) for i in range(3))
    assert mask_overlap([replace(overlap(), chances=alike)]).axes[0].get_title().endswith("; by chance 0.05")


def test_overlaps_of_seeds_say_of_what() -> None:
    one = overlap(2, None)
    seeds = Overlap("digits", 4.0, "seeds", "magnitude", ("1", "2"), one.matrix)
    assert mask_overlap([one, seeds]).axes[1].get_title().endswith("between seeds of magnitude")


def test_numbers_of_large_overlaps_are_left_out() -> None:
    assert not mask_overlap([overlap(31)]).axes[0].texts


def test_by_chance_in_a_study_is_the_mean_over_pairs() -> None:
    masks = {name: {"w": torch.arange(20) < n} for name, n in (("a", 10), ("b", 5), ("c", 4))}
    found = mean_overlap(chance_overlaps(masks))
    pairs = [a * b / (20 * (a + b) - a * b) for a, b in ((10, 5), (10, 4), (5, 4))]
    assert found == pytest.approx(sum(pairs) / 3)


def test_histograms_are_stacked_with_the_threshold() -> None:
    scores = torch.rand(500, generator=GENERATOR)
    given = histogram(scores, scores > 0.7, 20, problem="digits", method="m", amount=4.0, layer="conv")
    (axes,) = score_histogram([given]).axes
    above, below = axes.patches
    np.testing.assert_array_equal(below.get_data().values, given.removed)  # pyright: ignore[reportAttributeAccessIssue]
    kept, edges, baseline = above.get_data()  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_array_equal(kept - baseline, given.kept)
    np.testing.assert_array_equal(edges, given.edges)
    (line,) = axes.lines
    assert np.asarray(line.get_xdata()).tolist() == [given.threshold] * 2
    assert axes.get_title(loc="left") == "digits: m, asked 4x\nconv"


def test_histograms_without_a_threshold_have_no_line_and_say_what_is_not_shown() -> None:
    scores, mask = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([False, True, False])
    (axes,) = score_histogram([histogram(scores, mask, logarithm=True)]).axes
    assert not axes.lines
    assert axes.get_xlabel() == "log10 of the score"
    assert axes.get_title(loc="left").endswith("all layers, 1 scores of 0 not shown")


def test_units_are_squares_in_order_and_gone_ones_are_crossed_out() -> None:
    kept = tuple(np.linspace(0, 1, 70).tolist())
    figure = unit_maps([UnitMap("digits", "m", 4.0, "conv", kept)])
    axes = next(axes for axes in figure.axes if axes.get_label() == "conv")
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (2, 64)
    np.testing.assert_allclose(shown.ravel()[:70], kept, atol=1e-6)
    assert len(axes.collections) == 1
    assert len(axes.collections[0].get_paths()) == 2, "one unit, crossed out with two lines"
    words = " ".join(text.get_text() for text in (*figure.texts, *(one for axes in figure.axes for one in axes.texts)))
    assert "69 of 70 units left, 50.0 % of weights" in words
    assert "digits: m, asked 4x" in words


def test_many_units_are_a_square() -> None:
    figure = unit_maps([UnitMap("digits", "m", 4.0, "conv", (0.5,) * 5000)])
    axes = next(axes for axes in figure.axes if axes.get_label() == "conv")
    assert np.asarray(axes.images[0].get_array()).shape == (71, 71)


def test_profiles_have_a_line_for_each_method_over_the_layers() -> None:
    layers = [
        LayerSparsity(problem, method, amount, layer, 10, share)
        for problem in ("p", "q")
        for amount in (2.0, 4.0)
        for method, shares in (("a", (0.1, 0.5, 0.9)), ("b", (0.9, 0.8, 0.7)))
        for layer, share in zip(("first", "second", "third"), shares, strict=True)
    ]
    figure = layer_profile(layers)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"{problem}: asked {amount}x" for problem in "pq" for amount in (2, 4)]
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines] == ["a", "b"]
        np.testing.assert_allclose(np.asarray(axes.lines[0].get_xdata(), float), [10, 50, 90])
        np.testing.assert_array_equal(np.asarray(axes.lines[0].get_ydata()), [0, 1, 2])
        assert [text.get_text() for text in axes.get_yticklabels()] == ["first", "second", "third"]
        low, high = axes.get_ylim()
        assert low > high, "the first layer is at the top"


def test_layers_that_a_method_does_not_have_leave_gaps_in_its_line_only() -> None:
    layers = [LayerSparsity("p", "a", 2.0, name, 10, 0.5) for name in ("x", "y", "z")]
    layers += [LayerSparsity("p", "b", 2.0, name, 10, 0.4) for name in ("z", "x")]
    (axes,) = layer_profile(layers).axes
    np.testing.assert_array_equal(np.asarray(axes.lines[1].get_ydata()), [0, 2])


@pytest.mark.parametrize("draw", [mask_overlap, score_histogram, unit_maps, layer_profile])
def test_nothing_to_draw_is_an_error(draw: object) -> None:
    with pytest.raises(SparsewoodError, match="nothing to draw"):
        draw([])  # pyright: ignore[reportCallIssue]
