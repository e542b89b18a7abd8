"""Criteria of units: what all have in common, and closed forms (003-01, 003-15, 003-16, 004-37, 004-38, 000-07)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood import unit_criteria
from sparsewood.data.augment import CropFlip
from sparsewood.shrinking.choice import Chooser
from sparsewood.testing import check_unit_criterion
from sparsewood.unit_criteria import (
    ChannelIndependence,
    ClassSelective,
    FeatureRank,
    FilterGradient,
    FilterNorm,
    Fisher,
    GateTaylor,
    GeometricMedian,
    HessianTrace,
    MeanActivation,
    MeanReplacement,
    MinusMACs,
    NonZeroFraction,
    OutlierSelectivity,
    PerLayerNormalized,
    TaylorRemoval,
    UnitCriterion,
    UnitMem,
)

EVERY: tuple[UnitCriterion, ...] = (
    ChannelIndependence(),
    ClassSelective(10),
    FeatureRank(),
    FilterGradient(),
    FilterNorm(),
    FilterNorm(2),
    Fisher(),
    GateTaylor(),
    GateTaylor(1),
    GeometricMedian(),
    HessianTrace(2),
    MeanActivation(),
    unit_criteria.MeanEnergy(),
    MeanReplacement(),
    MeanReplacement("signed", "mean"),
    MinusMACs(PerLayerNormalized(TaylorRemoval()), 2.0),
    NonZeroFraction(),
    OutlierSelectivity(CropFlip(1), 2),
    PerLayerNormalized(UnitMem(CropFlip(1), 2)),
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
def test_criteria_keep_the_contract(criterion: UnitCriterion) -> None:
    check_unit_criterion(criterion)


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


def test_scores_of_units_compete_as_they_are() -> None:
    model, data = network(), batches()
    structure = sw.trace(model, data[0][0])
    for criterion in (FilterNorm(), MinusMACs(FilterNorm(), 3.0), MeanActivation()):
        chooser = Chooser(model, structure, criterion=criterion, amount=5, data=data)
        for name, scores in scores_of(criterion, model, data, structure).items():
            torch.testing.assert_close(chooser.scores[name], scores, rtol=0, atol=0)


def test_what_criteria_do_not_take_is_refused() -> None:
    for make, message in (
        (lambda: FilterNorm(0), "FilterNorm needs a finite p > 0. Got 0"),
        (lambda: GateTaylor(0), "GateTaylor needs a batch"),
        (lambda: HessianTrace(0), "whole number of probes"),
        (lambda: MinusMACs(FilterNorm(), -1.0), "MinusMACs needs a finite strength >= 0. Got -1.0"),
        (lambda: MinusMACs(sw.Magnitude(), 1.0), r"MinusMACs takes a criterion of units.* Got Magnitude\(\)"),  # type: ignore[arg-type]
        (lambda: PerLayerNormalized(TaylorRemoval), "PerLayerNormalized takes a criterion of units"),  # type: ignore[arg-type]
        (lambda: TaylorRemoval("squared"), "'form' must be 'absolute' or 'signed'"),  # type: ignore[arg-type]
        (lambda: MeanReplacement(space="max"), "'space' must be 'sum' or 'mean'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(sw.SparsewoodError, match=message):
            make()


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


def test_003_01_the_signed_example_of_the_original() -> None:
    a = torch.tensor([[-1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    net = linear(torch.eye(3), torch.ones(3))  # g = 1
    assert of(TaylorRemoval("signed"), net, a) == [0.0, 0.0, -1.0]
    assert of(TaylorRemoval(), net, a) == [1.0, 0.0, 1.0]


def convolution(weights: Sequence[float], biases: Sequence[float]) -> nn.Sequential:
    """Channel j is weights[j] x + biases[j] at every place; all are added up."""
    net = nn.Sequential(nn.Conv2d(1, len(weights), 1), nn.Identity(), nn.Conv2d(len(weights), 1, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(weights).view(-1, 1, 1, 1))
        net[0].bias.copy_(torch.tensor(biases))
        net[2].weight.fill_(1.0)
    return net


def square(out: Tensor, _: object) -> Tensor:
    return out.square().flatten(1).sum(1).mean()


def test_003_01_constant_units_lose_nothing_when_they_become_their_mean_and_zero_units_nothing_at_all() -> None:
    net = convolution([0.0, 1.0, 0.0], [1.0, 0.0, 0.0])  # a channel of ones, one that varies, one of zeros
    x = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    for form in ("absolute", "signed"):
        ones, varies, zeros = of(MeanReplacement(form), net, x, square)
        assert ones == pytest.approx(0.0, abs=1e-5 if form == "signed" else 0.0)
        assert abs(varies) > 0.1
        assert zeros == 0.0
        one, _, zero = of(TaylorRemoval(form), net, x, square)
        assert abs(one) > 0.1
        assert zero == 0.0


def test_003_01_signed_mean_replacement_is_removal_plus_mean_times_gradient() -> None:
    net, x = convolution([2.0, -1.0], [0.5, 1.0]), torch.randn(5, 1, 3, 2)
    a = net[0](x).detach()
    g = (2 * (a.sum(1, keepdim=True))).expand_as(a)
    mean = a.mean((0, 2, 3))
    for space, reduce in (("sum", lambda t: t.sum((2, 3))), ("mean", lambda t: t.mean((2, 3)))):
        removed = reduce(-a * g)
        replaced = reduce((mean.view(1, -1, 1, 1) - a) * g)
        assert of(TaylorRemoval("signed", space), net, x, square) == pytest.approx(removed.mean(0).tolist(), rel=1e-4)
        assert of(TaylorRemoval("absolute", space), net, x, square) == pytest.approx(
            removed.abs().mean(0).tolist(), rel=1e-4
        )
        assert of(MeanReplacement("signed", space), net, x, square) == pytest.approx(
            replaced.mean(0).tolist(), rel=1e-3
        )
        assert of(MeanReplacement("absolute", space), net, x, square) == pytest.approx(
            replaced.abs().mean(0).tolist(), rel=1e-4
        )
        identity = removed.mean(0) + mean * reduce(g).mean(0)
        torch.testing.assert_close(identity, replaced.mean(0), rtol=1e-3, atol=1e-4)


def test_003_01_removal_is_the_derivative_by_a_scale_of_the_unit() -> None:
    net, x = convolution([2.0, -1.0], [0.5, 1.0]).double(), torch.randn(5, 1, 3, 2, dtype=torch.float64)
    found, step = of(TaylorRemoval("signed"), net, x, square), 1e-6
    with torch.no_grad():
        a = net[0](x)
        for unit in range(2):
            scale = torch.ones(1, 2, 1, 1, dtype=torch.float64)
            scale[0, unit] = 1 - step
            slope = (square(net[2](a * scale), None) - square(net[2](a), None)) / step
            assert found[unit] == pytest.approx(float(slope), rel=1e-4)


def test_gates_average_squares_over_all_mini_batches() -> None:
    """Of three examples there are nine mini-batches of two, drawn with replacement."""
    t = torch.tensor([[1.0, -2.0], [4.0, 0.0], [-2.0, 5.0]], dtype=torch.float64)
    drawn = torch.stack([(t[i] + t[j]) / 2 for i in range(3) for j in range(3)])
    found = {"first order, sum over space": -t.sum(0), "squared first order, sum over space": t.square().sum(0)}
    torch.testing.assert_close(GateTaylor(2).scores(found, 3), drawn.square().mean(0))
    torch.testing.assert_close(GateTaylor(1).scores(found, 3), 2 * Fisher().scores(found, 3))


def test_004_38_gradients_rank_filters_by_what_the_loss_loses() -> None:
    net = linear(torch.tensor([[1.0], [3.0], [-2.0]]), torch.ones(3))
    assert of(FilterGradient(), net, torch.ones(1, 1)) == [1.0, 3.0, 2.0]


def test_hessian_trace_of_a_quadratic_is_exact() -> None:
    """L = sum over units of c_j |w_j|^2 / 2 on (1, 0) and (0, 1): H is diagonal, so that one probe is exact."""

    class Quadratic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 3, bias=False)
            self.scale = nn.Parameter(torch.tensor([1.0, 4.0, 2.0]), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return (self.first(x).square() * self.scale).sum(1)

    model, x = Quadratic().double(), torch.eye(2, dtype=torch.float64)
    with torch.no_grad():
        model.first.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 2.0], [3.0, 0.0]]))
    structure, (name,) = sw.trace(model, x), (group.name for group in sw.trace(model, x).prunable)
    for data in ([(x, None)], [(x[:1], None), (x[1:], None)]):
        found = HessianTrace(1)(
            model, structure, data=data, loss=lambda out, _: out.mean(), generator=torch.Generator().manual_seed(0)
        )[name]
        # The trace is c_j for each of the two weights: trace / (2 p) = c_j / 2, times |w_j|^2 = 5, 4, 9.
        torch.testing.assert_close(found, torch.tensor([2.5, 8.0, 9.0], dtype=torch.float64))


def test_hessian_trace_goes_through_attention_and_recurrent_layers() -> None:
    for name in ("attention", "recurrent"):
        toy = next(one for one in sw.testing.ARCHITECTURES if one.name == name)
        model, x = toy.build(), toy.inputs(3)
        data = [(x, torch.zeros(3, dtype=torch.int64))]
        found = HessianTrace(1)(
            model, sw.trace(model, x), data=data, loss=F.cross_entropy, generator=torch.Generator().manual_seed(0)
        )
        assert any(bool((one != 0).any()) for one in found.values())


def test_distances_to_other_filters() -> None:
    net = linear(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]), torch.ones(3))
    scores = of(GeometricMedian(), net, torch.ones(1, 2))
    assert scores == pytest.approx([0.75, 1.5, 0.75])  # 5, 10, 5 over their mean


def test_distances_are_those_of_plain_sums_and_none_between_equal_filters() -> None:
    rows = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) + 100
    rows[5] = rows[2]
    sums = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist").sum(1)
    net = linear(rows, torch.ones(9))
    assert of(GeometricMedian(), net, torch.ones(1, 4)) == pytest.approx((sums / sums.mean()).tolist(), rel=1e-6)
    one, other = torch.rand(2, 1, 40, generator=torch.Generator().manual_seed(0))
    net = linear(torch.cat([one.repeat(4, 1), other.repeat(3, 1)]), torch.ones(7))
    # Distances are 0 and d: 3 d for each of four filters, 4 d for each of three, 24 / 7 d in the mean.
    expected = [7 / 8] * 4 + [7 / 6] * 3
    assert of(GeometricMedian(), net, torch.ones(1, 40)) == pytest.approx(expected, rel=1e-12)
    assert of(GeometricMedian(), linear(one.repeat(3, 1), torch.ones(3)), torch.ones(1, 40)) == [0.0, 0.0, 0.0]


def test_000_07_norms_of_filters_are_relative_to_their_layer() -> None:
    def layers(scale: float) -> nn.Sequential:
        first = sw.testing.constant_filters([1.0, -2.0, 3.0])
        second = sw.testing.constant_filters([scale, 3 * scale], inputs=3)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(2, 1, 1))

    for scale in (1.0, 100.0):
        for p in (1, 2):
            found = scores_of(FilterNorm(p), layers(scale), [(torch.ones(1, 1, 8, 8), torch.zeros(1))])
            assert found["0"].tolist() == pytest.approx([0.5, 1.0, 1.5])
            assert found["2"].tolist() == pytest.approx([0.5, 1.5])


def test_003_15_scores_divided_by_the_norm_of_their_layer() -> None:
    model, data = network(), batches()
    plain, found = (scores_of(one, model, data) for one in (TaylorRemoval(), PerLayerNormalized(TaylorRemoval())))
    for name, scores in plain.items():
        torch.testing.assert_close(found[name], scores / scores.square().sum().sqrt())
    nothing = PerLayerNormalized(TaylorRemoval()).changed(sw.trace(model, data[0][0]), {"0": torch.zeros(6)})
    assert nothing["0"].tolist() == [0.0] * 6


def test_003_16_units_that_cost_more_go_first() -> None:
    model, data = network(), batches()
    structure = sw.trace(model, data[0][0][:1])
    # Places: 6 x 6, then 4 x 4; a unit costs 9 * 36 + 9 * 8 * 16 in the first layer, 54 * 16 + 4 * 10 in the second.
    costs, total = {"0": 1476, "3": 904}, 6 * 9 * 36 + 8 * 54 * 16 + 32 * 10
    plain, found = (scores_of(one, model, data, structure) for one in (FilterNorm(), MinusMACs(FilterNorm(), 50.0)))
    for name, scores in plain.items():
        torch.testing.assert_close(found[name], scores - 50.0 * costs[name] / total)
    removed = [
        Chooser(model, structure, criterion=one, amount=5).choose().keep
        for one in (FilterNorm(), MinusMACs(FilterNorm(), 50.0))
    ]
    gone = [int((~keep["0"]).sum()) if "0" in keep else 0 for keep in removed]
    assert gone[1] == 5 > gone[0]


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


def nuclear(matrix: Tensor) -> float:
    return float(torch.linalg.svdvals(matrix.double()).sum())


@pytest.mark.parametrize("places", [(1, 2), (5, 5)])  # fewer places than channels, and more
def test_channel_independence_is_what_singular_values_say(places: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1))
    with torch.no_grad():
        net[0].weight[3], net[0].bias[3] = 0.0, -1.0  # a dead channel
        net[0].weight[4], net[0].bias[4] = net[0].weight[1], net[0].bias[1]  # two equal ones
    x = torch.randn(3, 2, *places)
    maps = net[1](net[0](x)).detach().flatten(2)
    expected = []
    for unit in range(6):
        rest = maps.clone()
        rest[:, unit] = 0
        expected.append(sum(nuclear(one) - nuclear(other) for one, other in zip(maps, rest, strict=True)) / 3)
    found = of(ChannelIndependence(), net, x)
    assert found == pytest.approx(expected, abs=1e-5)
    assert found[3] == 0.0
    assert found[1] == pytest.approx(found[4])


def test_ranks_of_tokens_and_neurons_are_the_share_of_examples_with_a_response() -> None:
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    assert of(FeatureRank(), net, torch.tensor([[1.0], [2.0], [3.0], [-1.0]])) == [0.75, 0.25]
    tokens = torch.tensor([[1.0, -1.0], [2.0, 3.0]]).unsqueeze(2)
    assert of(FeatureRank(), net, tokens, lambda out, _: out.mean()) == [1.0, 0.5]


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


def test_the_hessian_is_that_of_a_mean_not_of_a_sum() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    data = [(torch.ones(2, 2), torch.tensor([0, 1]))]
    with pytest.raises(sw.SparsewoodError, match="a mean over it is needed"):
        HessianTrace(1)(
            net, sw.trace(net, data[0][0]), data=data, loss=nn.CrossEntropyLoss(reduction="sum"),
            generator=torch.Generator(),
        )  # fmt: skip


def test_only_so_many_images_count_however_they_are_given() -> None:
    net, x = network(), torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    structure = sw.trace(net, x[:2])

    def scores(images: object, count: int | None) -> Tensor:
        found = UnitMem(None, images=count)(net, structure, data=images, loss=None, generator=torch.Generator())  # type: ignore[arg-type]
        return found["0"]

    expected = scores(x[:9], None)
    for images in (x, list(x.split(4)), iter(x.split(4))):
        torch.testing.assert_close(scores(images, 9), expected, rtol=1e-5, atol=1e-8)
