"""Pruning by a threshold: a decision about every unit by itself, in every scope."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood.allocation import ERK, LAMP, Everywhere, Named, PerLayer, PerRow, PerType
from sparsewood.allocation.scopes import Request, Scope
from sparsewood.errors import SparsewoodError
from sparsewood.masks import apply_masks
from sparsewood.schedules import RNNRamp
from sparsewood.testing import counting_linear
from sparsewood.types import Amount, Count, Threshold, as_amount


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 10))


def test_what_scores_below_goes_and_what_is_equal_stays() -> None:
    layer = counting_linear(2, 3)
    masks = sw.prune(layer, sw.Magnitude(), Threshold(4))
    assert masks["weight"].tolist() == [[False, False, False], [True, True, True]]


SCOPES = [
    Everywhere(), PerLayer(), PerLayer(ERK()), PerLayer(LAMP()), PerType(), PerRow(),
    Named({"*": Threshold(0.1)}), Named({"*": None}), PerLayer({"*": Threshold(0.1)}), PerType({nn.Module: None}),
]  # fmt: skip


@pytest.mark.parametrize("scope", SCOPES, ids=repr)
@pytest.mark.parametrize("granularity", [sw.Element(), sw.Filter(), sw.Kernel()], ids=repr)
def test_every_scope_and_granularity_decides_unit_by_unit(scope: Scope, granularity: sw.Filter) -> None:
    model = network()
    own = scope.own_amounts
    criterion = sw.LpNorm(1, normalized=True)
    amount = {} if own and None not in own.values() else {"sparsity": Threshold(0.1)}
    masks = sw.prune(model, criterion, scope=scope, granularity=granularity, protect_classifier=False,
                     min_units=0, **amount)  # fmt: skip
    scores = sw.score(model, criterion, granularity=granularity)
    assert list(masks) == ["0.weight", "1.weight", "3.weight"]
    for name, mask in masks.items():
        expected = (scores[name] >= 0.1).expand(scores[name].shape)
        for axis, (size, whole) in enumerate(zip(expected.shape, mask.shape, strict=True)):
            expected = expected.repeat_interleave(whole // size, axis)
        assert torch.equal(mask, expected)
    assert 0 < masks.sparsity < 1


def test_amounts_of_their_own_may_mix_with_a_threshold() -> None:
    model = network()
    masks = sw.prune(model, sw.Magnitude(), scope={"0": Threshold(0.1), "1": 0.25, "3": None}, sparsity=Count(7),
                     protect_classifier=False)  # fmt: skip
    assert torch.equal(masks["0.weight"], model[0].weight.abs() >= 0.1)
    assert int((~masks["1.weight"]).sum()) == round(0.25 * model[1].weight.numel())
    assert int((~masks["3.weight"]).sum()) == 7


def test_what_was_removed_stays_removed() -> None:
    """[7.10] A removed weight is 0 in score, and a negative threshold brings nothing back."""
    layer = counting_linear(2, 3)
    earlier = sw.Masks({"weight": torch.tensor([[True, True, True], [True, True, False]])})
    for value, kept in ((4, 2), (-1, 5), (0, 5)):
        masks = sw.prune(layer, sw.Magnitude(), Threshold(value), masks=earlier)
        assert masks & earlier == masks
        assert masks.total - masks.removed == kept


def test_floors_hold_and_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """[7.11] The best units stay where the threshold would leave fewer than the floor."""
    layer = counting_linear(2, 3)
    with caplog.at_level(logging.WARNING):
        masks = sw.prune(layer, sw.Magnitude(), Threshold(100), min_units=2)
    assert masks["weight"].tolist() == [[False, False, False], [False, True, True]]
    assert "leaves 0 of 6 units of weight; the best 2 stay" in caplog.text
    assert sw.prune(layer, sw.Magnitude(), Threshold(100), min_units=0).sparsity == 1.0


@pytest.mark.parametrize(("value", "kept"), [(1e300, 0), (10**30, 0), (-1e300, 6), (-(10**30), 6)])
def test_thresholds_beyond_the_scores_type(value: float, kept: int) -> None:
    masks = sw.prune(counting_linear(2, 3), sw.Magnitude(), Threshold(value), min_units=0)
    assert masks.total - masks.removed == kept


@pytest.mark.parametrize("size", [1000, 600_000])
def test_thresholds_are_exact_on_large_tensors_and_ties(size: int) -> None:
    layer = nn.Linear(size, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(size).remainder(10)[None])
    masks = sw.prune(layer, sw.Magnitude(), Threshold(3))
    assert torch.equal(masks["weight"], layer.weight >= 3)
    assert torch.get_num_threads() == 1


def test_nan_is_refused_as_elsewhere() -> None:
    layer = counting_linear(2, 2)
    layer.weight.data[0, 0] = torch.nan
    with pytest.raises(SparsewoodError, match="scores of weight are NaN"):
        sw.prune(layer, sw.Magnitude(), Threshold(1))


def test_a_threshold_is_no_number_of_units() -> None:
    class Own(Scope):
        own_amounts = {"*": 0.5}  # noqa: RUF012  # type: ignore[assignment]

        def pools(self, request: Request):  # type: ignore[no-untyped-def]
            from sparsewood.allocation.budgets import total_kept

            return total_kept(Threshold(0.1), request.layers)

    with pytest.raises(SparsewoodError, match="decided unit by unit"):
        sw.prune(network(), sw.Magnitude(), scope=Own())
    with pytest.raises(SparsewoodError, match="2:4 removes"):
        sw.prune(nn.Linear(4, 4), sw.Magnitude(), Threshold(0.1), granularity=sw.NM(2, 4))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), "0.1", True, None])
def test_thresholds_are_finite_numbers(wrong: object) -> None:
    with pytest.raises(SparsewoodError, match="finite number"):
        Threshold(wrong)  # type: ignore[arg-type]


def test_thresholds_pass_as_amounts() -> None:
    assert as_amount(Threshold(0.5)) == Threshold(0.5)
    assert isinstance(Threshold(1), Amount)
    with pytest.raises(SparsewoodError, match="Compression, Threshold"):
        as_amount("0.5")  # type: ignore[arg-type]


class Language(nn.Module):
    """An embedding, two recurrent layers and an output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.lstm = nn.LSTM(8, 12)
        self.gru = nn.GRU(12, 12)
        self.out = nn.Linear(12, 30)


def test_the_ramp_prunes_recurrent_networks_and_embeddings() -> None:
    """[004-35] LSTM, GRU and embedding weights, taken in by name; the masks only grow."""
    torch.manual_seed(0)
    model = Language()
    names = ["embedding.weight", *(f"{rnn}.weight_{kind}_l0" for rnn in ("lstm", "gru") for kind in ("ih", "hh"))]
    ramp = RNNRamp(0.2, ramp=3, end=8)
    masks = sw.Masks({})
    removed = []
    for event in ramp(ramp.fixed_rounds):
        assert isinstance(event.amount, Threshold)
        masks = sw.prune(model, sw.Magnitude(), event.amount, include=names, masks=masks)
        apply_masks(model, masks)
        for name in names:
            weight = model.get_parameter(name)
            assert torch.equal(masks[name], weight.abs() >= event.amount.value)
        removed.append(masks.removed)
    assert sorted(masks) == sorted(names)
    assert removed == sorted(removed)
    assert removed[0] < removed[3] < removed[-1]
    assert min(masks.layer_sparsity().values()) > 0.1
