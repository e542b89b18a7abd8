"""Histograms of scores: every score is counted once, and the threshold is where the mask cuts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.report.histograms import histogram, threshold_of


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=1, max_size=30), st.integers(1, 7))
def test_counts_are_those_of_the_scores(pairs: list[tuple[int, bool]], bins: int) -> None:
    scores = torch.tensor([score for score, _ in pairs], dtype=torch.float64)
    mask = torch.tensor([kept for _, kept in pairs])
    found = histogram(scores, mask, bins)
    assert len(found.edges) == bins + 1
    assert (sum(found.kept), sum(found.removed)) == (int(mask.sum()), int((~mask).sum()))
    for number in range(bins):
        inside = (scores >= found.edges[number]) & (
            (scores <= found.edges[number + 1]) if number == bins - 1 else (scores < found.edges[number + 1])
        )
        assert found.kept[number] == int((inside & mask).sum())
        assert found.removed[number] == int((inside & ~mask).sum())


def test_the_threshold_is_halfway_between_removed_and_kept() -> None:
    scores = torch.tensor([0.1, 0.4, 0.2, 0.8])
    assert threshold_of(scores, scores > 0.2) == pytest.approx(0.3)
    assert threshold_of(scores, torch.tensor([True, False, True, True])) is None, "0.1 stayed and 0.4 went"
    for all_or_nothing in (torch.ones(4), torch.zeros(4)):
        assert threshold_of(scores, all_or_nothing.bool()) is None
    tied = torch.tensor([1.0, 2.0, 2.0, 3.0])
    assert threshold_of(tied, torch.tensor([False, False, True, True])) == 2.0


def test_masks_of_prune_cut_at_the_threshold() -> None:
    """A global choice has one threshold; one within layers has one in each, and none over all."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 20), nn.Linear(20, 5))
    for weight, factor in ((net[0].weight, 1.0), (net[1].weight, 5.0)):
        weight.data *= factor  # pyright: ignore[reportOperatorIssue]
    scores = {name: p.detach().abs() for name, p in net.named_parameters() if p.ndim > 1 and not name.startswith("2")}
    everywhere = sw.prune(net, sw.Magnitude(), 0.5)
    line = threshold_of(scores, everywhere)
    assert line is not None
    assert all(torch.equal(scores[name] > line, mask) for name, mask in everywhere.items())
    within = sw.prune(net, sw.Magnitude(), 0.5, scope=sw.PerLayer())
    assert threshold_of(scores, within) is None
    assert all(threshold_of(scores[name], mask) is not None for name, mask in within.items())


def test_logarithms_leave_zeros_out_and_count_them() -> None:
    scores, mask = torch.tensor([0.0, 0.0, 0.01, 1.0, 100.0]), torch.tensor([False, False, False, True, True])
    found = histogram(scores, mask, 4, logarithm=True)
    np.testing.assert_allclose(found.edges, [-2, -1, 0, 1, 2], atol=1e-7)
    assert (found.removed, found.kept, found.zeros) == ((1, 0, 0, 0), (0, 0, 1, 1), 2)
    assert found.threshold == pytest.approx(math.log10((0.01 + 1) / 2)), "where the edges are"
    only_zeros = histogram(torch.zeros(3), torch.tensor([True, False, False]), logarithm=True)
    assert (sum(only_zeros.kept), sum(only_zeros.removed), only_zeros.zeros) == (0, 0, 3)
    assert only_zeros.threshold is None
    assert histogram(torch.zeros(3), torch.zeros(3).bool()).zeros == 0


def test_equal_scores_have_a_bin() -> None:
    found = histogram(torch.full((2, 2), 3.0), torch.ones(2, 2).bool(), 2)
    assert (found.edges, sum(found.kept)) == ((2.5, 3.0, 3.5), 4)


def test_what_it_is_of_is_noted_and_layers_are_counted_together() -> None:
    scores, mask = torch.tensor([1.0, 2.0]), torch.tensor([False, True])
    found = histogram({"a": scores, "b": scores}, {"a": mask, "b": mask}, 1, problem="p", method="m", amount=8.0)
    assert (found.problem, found.method, found.amount, found.layer) == ("p", "m", 8.0, "")
    assert (found.kept, found.removed, found.threshold) == ((2,), (2,), 1.5)


def test_scores_that_cannot_be_counted_are_refused() -> None:
    one, yes = torch.tensor([1.0]), torch.tensor([True])
    cases: tuple[tuple[Any, Any, dict[str, Any], str], ...] = (
        (torch.tensor([math.nan]), yes, {}, "finite numbers"),
        ({"a": torch.tensor([math.inf])}, {"a": yes}, {}, "Scores of 'a' must be finite"),
        (torch.tensor([-1.0]), yes, {"logarithm": True}, "have no logarithm"),
        (one, torch.ones(2).bool(), {}, r"scores' shape \(1,\). Got torch.bool \(2,\)"),
        (one, one, {}, "must be boolean"),
        (torch.ones(0), torch.ones(0).bool(), {}, "no score was given"),
        (one, yes, {"bins": 0}, "bins must be a whole number >= 1. Got 0"),
        ({"a": one}, {"b": yes}, {}, "Scores are of a and masks of b"),
        ({"a": one}, yes, {}, "both as tensors, or both as mappings"),
    )
    for scores, mask, more, message in cases:
        with pytest.raises(SparsewoodError, match=message):
            histogram(scores, mask, **more)
