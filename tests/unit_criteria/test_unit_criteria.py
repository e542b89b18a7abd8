"""Criteria of units: closed forms, what all have in common, and how well they tell what a unit is worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood import unit_criteria
from sparsewood.data.augment import CropFlip
from sparsewood.shrinking.choice import Chooser
from sparsewood.unit_criteria import (
    ChannelIndependence,
    ClassSelective,
    FeatureRank,
    FilterGradient,
    Fisher,
    GateTaylor,
    GeometricMedian,
    HessianTrace,
    MeanActivation,
    MeanReplacement,
    NonZeroFraction,
    OutlierSelectivity,
    TaylorRemoval,
    UnitCriterion,
    UnitMem,
)

EVERY: tuple[UnitCriterion, ...] = (
    ChannelIndependence(),
    ClassSelective(10),
    FeatureRank(),
    FilterGradient(),
    Fisher(),
    GateTaylor(),
    GeometricMedian(),
    HessianTrace(2),
    MeanActivation(),
    unit_criteria.MeanEnergy(),
    MeanReplacement(),
    MeanReplacement("signed", "mean"),
    NonZeroFraction(),
    OutlierSelectivity(CropFlip(1), 2),
    TaylorRemoval(),
    TaylorRemoval("signed", "mean"),
    UnitMem(CropFlip(1), 2),
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def batches(count: int = 24, size: int = 10) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(count, 1, 8, 8, generator=generator), torch.randint(10, (count,), generator=generator)
    return list(zip(x.split(size), y.split(size), strict=True))


def data_for(criterion: UnitCriterion, data: Sequence[tuple[Tensor, Tensor]]) -> Any:
    return torch.cat([x for x, _ in data]) if criterion.reads_images else data


def scores_of(
    criterion: UnitCriterion,
    model: nn.Module,
    data: Sequence[tuple[Tensor, Tensor]],
    structure: sw.Structure | None = None,
) -> dict[str, Tensor]:
    structure = structure or sw.trace(model, data[0][0])
    generator = torch.Generator().manual_seed(0)
    given = data_for(criterion, data)
    return dict(criterion(model, structure, data=given, loss=F.cross_entropy, generator=generator))


# ---------------------------------------------------------------- what all have in common


def test_every_criterion_of_the_catalogue_is_tried_here() -> None:
    assert {type(one).__name__ for one in EVERY} == set(unit_criteria.__all__)


@pytest.mark.parametrize("criterion", EVERY, ids=repr)
def test_a_criterion_is_a_value_with_formula_and_source(criterion: UnitCriterion) -> None:
    kind = type(criterion)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert criterion == dataclasses.replace(criterion)
    text = kind.__doc__ or ""
    assert "score_j = " in text
    assert "Source: " in text
    assert "https://" in text


@pytest.mark.parametrize("criterion", EVERY, ids=repr)
def test_scores_are_finite_numbers_for_all_units_and_leave_no_trace(criterion: UnitCriterion) -> None:
    model = network().train()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    state = torch.get_rng_state()
    found = scores_of(criterion, model, batches())
    assert {name: (one.shape, one.dtype) for name, one in found.items()} == {
        "0": ((6,), torch.float64), "3": ((8,), torch.float64),
    }  # fmt: skip
    assert all(bool(torch.isfinite(one).all()) for one in found.values())
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert model.training
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("criterion", [one for one in EVERY if not isinstance(one, HessianTrace)], ids=repr)
def test_batches_may_be_cut_in_any_way(criterion: UnitCriterion) -> None:
    one, two = (scores_of(criterion, network(), batches(24, size)) for size in (24, 7))
    for name, scores in one.items():
        torch.testing.assert_close(two[name], scores, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("criterion", [one for one in EVERY if not isinstance(one, HessianTrace)], ids=repr)
def test_scores_follow_units_that_change_places(criterion: UnitCriterion) -> None:
    model, order = network(), torch.tensor([3, 0, 5, 1, 4, 2])
    moved = network()
    with torch.no_grad():
        for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
            moved.get_parameter(name).copy_(model.get_parameter(name)[order])
        moved.get_parameter("3.weight").copy_(model.get_parameter("3.weight")[:, order])
    before, after = (scores_of(criterion, net, batches()) for net in (model, moved))
    torch.testing.assert_close(after["0"], before["0"][order], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(after["3"], before["3"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("criterion", EVERY, ids=repr)
def test_shrink_takes_every_criterion_and_removes_exactly_what_is_asked(criterion: UnitCriterion) -> None:
    data = batches()
    model = network()
    chooser = Chooser(
        model,
        sw.trace(model, data[0][0]),
        criterion=criterion,
        amount=5,
        data=data_for(criterion, data),
        loss=F.cross_entropy,
    )
    assert chooser.choose().removed == 5


def test_a_criterion_goes_all_the_way_through_shrink() -> None:
    data = batches()
    shrunk = sw.shrink(network(), data[0][0], 0.5, criterion=TaylorRemoval(), data=data, loss=F.cross_entropy)
    assert shrunk.report.exact
    assert shrunk.report.removed == 7


def test_images_for_criteria_that_augment_them_are_batches_for_bias_propagation() -> None:
    x = torch.cat([one for one, _ in batches()])
    options = {"criterion": UnitMem(None), "bias_propagation": True}
    one = sw.shrink(network(), x[:2], 0.5, data=x, **options)
    other = sw.shrink(network(), x[:2], 0.5, data=x.flip(0), **options)
    assert one.report.removed == 7
    torch.testing.assert_close(one.model.state_dict(), other.model.state_dict())


@pytest.mark.parametrize("criterion", [TaylorRemoval(), UnitMem()], ids=repr)
def test_missing_data_and_losses_are_named(criterion: UnitCriterion) -> None:
    model = network()
    structure = sw.trace(model, batches()[0][0])
    with pytest.raises(sw.SparsewoodError, match=f"{type(criterion).__name__} needs data"):
        criterion(model, structure, data=None, loss=None, generator=torch.Generator())
    if criterion.reads_loss:
        with pytest.raises(sw.SparsewoodError, match="needs a loss"):
            criterion(model, structure, data=batches(), loss=None, generator=torch.Generator())


# ---------------------------------------------------------------- closed forms


def linear(rows: Tensor, read: Tensor) -> nn.Sequential:
    """Units x . rows[j], read by `read`: no activation in between."""
    net = nn.Sequential(
        nn.Linear(rows.shape[1], len(rows), bias=False), nn.Identity(), nn.Linear(len(rows), 1, bias=False)
    )
    with torch.no_grad():
        net[0].weight.copy_(rows)
        net[2].weight.copy_(read.view(1, -1))
    return net


def mean(out: Tensor, _: object) -> Tensor:
    return out.mean()


def of(criterion: UnitCriterion, net: nn.Module, x: Tensor, loss: Any = mean) -> list[float]:
    structure = sw.trace(net, x)
    return criterion(net, structure, data=[(x, None)], loss=loss, generator=torch.Generator().manual_seed(0))[
        "0"
    ].tolist()


def test_taylor_terms_of_a_linear_network() -> None:
    net = linear(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.tensor([2.0, -1.0, 5.0]))
    x = torch.tensor([[1.0, 3.0], [-3.0, 1.0]])  # a g = [[2, -3], [-6, -1]] for units 0 and 1
    assert of(TaylorRemoval("signed"), net, x) == [2.0, 2.0, 0.0]
    assert of(TaylorRemoval(), net, x) == [4.0, 2.0, 0.0]
    assert of(GateTaylor(32), net, x) == [4.5, 4.03125, 0.0]  # 4 + (20 - 4) / 32, 4 + (5 - 4) / 32
    assert of(Fisher(), net, x) == [10.0, 2.5, 0.0]  # (4 + 36) / 4, (9 + 1) / 4
    assert of(MeanReplacement(), net, x) == [4.0, 1.0, 0.0]  # means -1 and 2: |2 (-1 - a)|, |-(2 - a)|
    assert of(MeanReplacement("signed"), net, x) == pytest.approx([0.0, 0.0, 0.0])


def test_004_38_gradients_rank_filters_by_what_the_loss_loses() -> None:
    net = linear(torch.tensor([[1.0], [3.0], [-2.0]]), torch.ones(3))
    assert of(FilterGradient(), net, torch.ones(1, 1)) == [1.0, 3.0, 2.0]


def test_hessian_trace_of_a_quadratic() -> None:
    """L = sum over units of (w_j x)^2 c_j / 2: H has c_j x^2 on its diagonal."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.read = nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False)
            self.scale = nn.Parameter(torch.tensor([1.0, 4.0, 2.0]), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(self.first(x) ** 2 * self.scale / 2)

    model = Sum()
    with torch.no_grad():
        model.read.weight.fill_(1.0)
        model.first.weight.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
    structure = sw.trace(model, torch.ones(1, 1))
    runs = [
        HessianTrace(64)(
            model, structure, data=[(torch.ones(1, 1), None)], loss=mean, generator=torch.Generator().manual_seed(s)
        )
        for s in range(3)
    ]
    name = next(iter(runs[0]))
    # With the reader's weights among the probes the estimate has noise of mean 0: trace c_j, score c_j w_j^2 / 2.
    estimate = torch.stack([run[name] for run in runs]).mean(0)
    torch.testing.assert_close(estimate, torch.tensor([0.5, 8.0, 9.0], dtype=torch.float64), rtol=0.35, atol=0.1)


def test_distances_to_other_filters() -> None:
    net = linear(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]), torch.ones(3))
    scores = of(GeometricMedian(), net, torch.ones(1, 2))
    assert scores == pytest.approx([0.75, 1.5, 0.75])  # 5, 10, 5 over their mean


def test_ranks_of_feature_maps() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Identity(), nn.Conv2d(3, 1, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 0.0, -2.0]).view(3, 1, 1, 1))
    x = torch.stack([torch.eye(4).unsqueeze(0), torch.ones(1, 4, 4)])
    assert of(FeatureRank(), net, x) == [2.5, 0.0, 2.5]  # ranks 4 and 1


def test_what_the_nuclear_norm_loses() -> None:
    net = linear(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.ones(2))
    # One place only: A is a column (3, 4) with nuclear norm 5; without a row it is 4 or 3.
    assert of(ChannelIndependence(), net, torch.ones(1, 2)) == pytest.approx([1.0, 2.0])


def test_fractions_and_means() -> None:
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[2.0], [-1.0]]))
    x = torch.tensor([[1.0], [2.0], [-1.0], [0.0]])
    assert of(NonZeroFraction(), net, x) == [0.5, 0.25]
    assert of(MeanActivation(), net, x) == [1.5, 0.25]


def test_units_that_several_layers_make_have_the_sum_of_taylor_terms() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.one, self.b, self.two, self.head = (
                nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            h = self.one(self.a(x))
            return self.head(self.two(h + self.b(h)))

    torch.manual_seed(0)
    model, x, y = Residual(), torch.randn(8, 2), torch.randint(2, (8,))
    found = sw.units.collect_units(model, [(x, y)], TaylorRemoval().needs, F.cross_entropy)
    at_sites = TaylorRemoval().at_sites(found)
    assert set(at_sites) == {"one", "two"}
    total = scores_of(TaylorRemoval(), model, [(x, y)])["a"]
    torch.testing.assert_close(total, at_sites["one"] + at_sites["two"])


# ---------------------------------------------------------------- what a unit is worth


Trained = tuple[nn.Module, list[tuple[Tensor, Tensor]], dict[str, Tensor]]


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A network trained on digits, training data, and the loss that each unit's removal costs."""
    split = sw.data.digits()
    x, y = split.train.batch(torch.arange(600))
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        for part in torch.randperm(600, generator=generator).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    model.eval()
    structure = sw.trace(model, x[:2])
    data = list(zip(x.split(200), y.split(200), strict=True))

    def loss(net: nn.Module) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(net(x), y))

    before = loss(model)
    worth = {}
    for group in structure.prunable:
        values = []
        for unit in range(group.units):
            keep = torch.ones(group.units, dtype=torch.bool)
            keep[unit] = False
            saved = {name: one.clone() for name, one in model.state_dict().items()}
            sw.apply_masks(model, structure.to_masks({group.name: keep}))
            values.append(loss(model) - before)
            model.load_state_dict(saved)
        worth[group.name] = torch.tensor(values)
    return model, data, worth


def rank_correlation(criterion: UnitCriterion, trained: Trained) -> float:
    """The mean over layers of Spearman's correlation with the loss that each removal costs."""
    model, data, worth = trained
    scores = scores_of(criterion, model, data)
    return sum(float(spearmanr(scores[name], worth[name]).statistic) for name in worth) / len(worth)


# At the end of a training the mean gradient is about 0: terms whose sign is kept cancel (`GateTaylor`, "signed").
@pytest.mark.parametrize(
    ("criterion", "least"),
    [(TaylorRemoval(), 0.5), (Fisher(), 0.5), (MeanReplacement(), 0.4)],
    ids=repr,
)
def test_gradient_criteria_agree_with_leaving_one_out(criterion: UnitCriterion, least: float, trained: Trained) -> None:
    assert rank_correlation(criterion, trained) > least


def test_absolute_terms_tell_more_than_signed_ones(trained: Trained) -> None:
    for kind in (TaylorRemoval, MeanReplacement):
        assert rank_correlation(kind(), trained) > rank_correlation(kind("signed"), trained)
