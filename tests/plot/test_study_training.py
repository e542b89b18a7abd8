"""Curves of trainings (001-23), of sensitivities, and pictures of what units memorize (000-14), from records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.plot import memorization, memorization_violins, sensitivity_curves, training_curves
from sparsewood.report.study import Memorization, SensitivityCurve, TrainingCurve

CURVE = TrainingCurve(
    "digits", "magnitude", 8.0, 1, "fine-tuning",
    (1, 2, 3), (0.9, 0.5, 0.4), (1.0, None, 0.8), (0.3, 0.6, 0.7), (0.2, 0.5, 0.4),
)  # fmt: skip
DENSE = replace(CURVE, method="dense", amount=1.0, stage="dense", validation_loss=(None,) * 3)


def test_001_23_losses_are_losses_and_accuracies_accuracies() -> None:
    left, right = training_curves([CURVE]).axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("loss", "accuracy [%]")
    np.testing.assert_array_equal(np.asarray(left.lines[0].get_ydata(), float), CURVE.train_loss)
    np.testing.assert_array_equal(np.asarray(left.lines[1].get_ydata(), float), [1.0, np.nan, 0.8])
    np.testing.assert_allclose(np.asarray(right.lines[1].get_ydata(), float), [20, 50, 40])
    assert [line.get_label() for line in right.lines] == ["training", "validation"]
    assert left.get_title(loc="left") == "digits: magnitude, asked 8x, seed 1, fine-tuning"


def test_several_trainings_are_pairs_with_their_names() -> None:
    figure = training_curves([DENSE, CURVE, CURVE])
    titles = [axes.get_title(loc="left") for axes in figure.axes][::2]
    assert titles[0] == "digits: dense, seed 1"
    assert titles[2] == f"{titles[1]} (2)"
    assert len(figure.axes[0].lines) == 1, "no validation loss is known"


def test_values_of_other_epochs_are_refused() -> None:
    with pytest.raises(SparsewoodError, match="different lengths"):
        training_curves([replace(CURVE, train_loss=(1.0,))])
    with pytest.raises(SparsewoodError, match="no training was given"):
        training_curves([])


def test_sensitivities_have_a_panel_for_each_granularity() -> None:
    curves = [
        SensitivityCurve("net", layer, units, (0.5, 0.0, 0.25), (0.6 - drop, 0.9, 0.8 - drop))
        for units in ("Element", "Filter")
        for layer, drop in (("a", 0.0), ("b", 0.1))
    ]
    figure = sensitivity_curves(curves)
    assert [axes.get_title() for axes in figure.axes] == ["Element", "Filter"]
    for axes in figure.axes:
        whole, a, b = axes.lines
        np.testing.assert_allclose(np.asarray(whole.get_ydata(), float), 90)
        np.testing.assert_allclose(np.asarray(a.get_xdata(), float), [0, 0.25, 0.5])
        np.testing.assert_allclose(np.asarray(a.get_ydata(), float), [90, 80, 60])
        np.testing.assert_allclose(np.asarray(b.get_ydata(), float), [90, 70, 50])
    several = [*curves[:2], *(replace(one, source="other", sparsity=(0.1, 0.2, 0.3)) for one in curves[:2])]
    figure = sensitivity_curves(several)
    assert [axes.get_title() for axes in figure.axes] == ["net: Element", "other: Element"]
    assert len(figure.axes[1].lines) == 2, "nothing is known of the whole network"


OF = Memorization(
    "run", "UnitMem", {"conv": (0.5, None, 0.0), "fc": (1.0,)}, {"conv": ((7, (0.0, 1.0, 2.0)), (2, (1.0, 1.0, 1.0)))}
)


def test_000_14_units_are_points_in_bands() -> None:
    (axes,) = memorization(OF).axes
    conv, fc = (np.asarray(one.get_offsets()) for one in axes.collections)
    np.testing.assert_array_equal(conv[:, 1], [0.5, 0.0])
    np.testing.assert_array_equal(fc[:, 1], [1.0])
    assert (axes.get_ylim(), axes.get_ylabel(), axes.get_title()) == ((-0.05, 1.05), "UnitMem", "run")
    assert len(axes.patches) == 1


def test_000_14_violins_are_of_the_sampled_units() -> None:
    (axes,) = memorization_violins(OF, "conv").axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["7", "2"]
    largest = [
        np.asarray(one.get_offsets())[:, 1].tolist()
        for one in axes.collections
        if type(one).__name__ == "PathCollection"
    ]
    assert largest[1::2] == [[0, 1, 2], [1, 1, 1]]
    assert largest[0::2] == [[1], [1]], "means"
    with pytest.raises(UnknownName, match="'cnv'"):
        memorization_violins(OF, "cnv")
    uneven = replace(OF, activations={"conv": ((0, (1.0,)), (1, (1.0, 2.0)))})
    with pytest.raises(SparsewoodError, match="different numbers of activations"):
        memorization_violins(uneven, "conv")
