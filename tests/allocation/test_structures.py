"""Layer by layer, by threshold, by level, at random, in every structure: against plain PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.allocation import Everywhere, Named, PerLayer
from sparsewood.allocation.scopes import Amounts, Scope
from sparsewood.criteria import LpNorm, Magnitude, Random, WeightTimesGradient
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.granularity import Block, Channel, Column, Filter, Granularity, Kernel, Row
from sparsewood.models import resnet20
from sparsewood.pruning.api import DEFAULT_AMOUNT
from sparsewood.types import Density, Threshold


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 7, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(7 * 16, 11), nn.Linear(11, 4),
    )  # fmt: skip


BATCH = (torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 4)


def sensitivities(model: nn.Module) -> dict[str, Tensor]:
    """|w dL/dw| of the weights, by autograd."""
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    gradients = torch.autograd.grad(nn.functional.cross_entropy(model(BATCH[0]), BATCH[1]), list(weights.values()))
    return {name: (w * g).abs().detach() for (name, w), g in zip(weights.items(), gradients, strict=True)}


def snip(model: nn.Module, scope: Scope) -> sw.Masks:
    amount = Density(0.1) if scope.own_amounts is None else DEFAULT_AMOUNT
    return sw.prune(
        model, WeightTimesGradient(), amount, scope=scope, data=[BATCH], loss=nn.functional.cross_entropy,
        protect_classifier=False, min_units=0,
    )  # fmt: skip


# ---------------------------------------------------------------- connection sensitivity in each layer


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.01, 1))
def test_001_02_layerwise_each_layer_keeps_its_share_and_its_best(first: float, second: float, rest: float) -> None:
    """round(r_l N_l) in every layer, whatever the scores of other layers are."""
    model = network()
    scope = PerLayer({"0": Density(first), "2": Density(second), "*": Density(rest)})
    masks, scores = snip(model, scope), sensitivities(model)
    shares = dict(zip(scores, (first, second, rest, rest), strict=True))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        name: round(shares[name] * score.numel()) for name, score in scores.items()
    }
    for name, mask in masks.items():
        if 0 < int(mask.sum()) < mask.numel():
            assert float(scores[name][mask].min()) >= float(scores[name][~mask].max()) * (1 - 1e-4)


def test_001_02_globally_only_the_total_is_fixed() -> None:
    model = network()
    masks, scores = snip(model, Everywhere()), sensitivities(model)
    total = sum(score.numel() for score in scores.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.1 * total)
    inside = torch.cat([scores[name][mask] for name, mask in masks.items()])
    outside = torch.cat([scores[name][~mask] for name, mask in masks.items()])
    assert float(inside.min()) >= float(outside.max()) * (1 - 1e-4)
    shares = [1 - share for share in masks.layer_sparsity().values()]
    assert max(shares) - min(shares) > 0.05
    layerwise = snip(model, PerLayer({"*": Density(0.1)}))
    assert any(not torch.equal(masks[name], layerwise[name]) for name in masks)


def test_001_03_a_vector_of_keep_ratios_becomes_a_mapping_by_name() -> None:
    """The first five layers whole, then half a percent, then a twentieth of one, which is none of the classifier's."""
    model = resnet20()
    weights = {name: p.numel() for name, p in model.named_parameters() if p.ndim > 1}
    ratios = [1.0] * 5 + [0.005] * 9 + [0.0005] * (len(weights) - 14)
    vector: Amounts = {name: Density(ratio) for name, ratio in zip(weights, ratios, strict=True)}
    with pytest.raises(SparsewoodError, match=r"would keep 0 of 640 units of fc.weight, but 1 must stay"):
        sw.prune(model, Magnitude(), scope=PerLayer(vector), protect_classifier=False)
    masks = sw.prune(model, Magnitude(), scope=PerLayer(vector), protect_classifier=False, min_units=0)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        name: round(ratio * weights[name]) for name, ratio in zip(weights, ratios, strict=True)
    }


@pytest.mark.parametrize("scope", [PerLayer, Named])
def test_001_03_unknown_names_raise(scope: type[PerLayer] | type[Named]) -> None:
    with pytest.raises(UnknownName, match="conv9"):
        snip(network(), scope({"0": Density(0.5), "conv9": Density(0.1)}))


# ---------------------------------------------------------------- thresholds and levels


def test_004_30_thresholds_by_name_with_a_default() -> None:
    """Keeps |w| >= lambda. Where the boundary is to go, too, the threshold is the next number above it."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    values = ([[-0.5, 0.25, 0.0], [0.5, 1.0, -0.75]], [[-0.5, 0.25], [0.5, 0.125]], [[0.25, 0.5], [-0.25, 0.125]])
    for parameter, entries in zip(model.parameters(), values, strict=True):
        parameter.data.copy_(torch.tensor(entries))
    thresholds: Amounts = {"0": Threshold(0.5), "*": Threshold(0.25)}
    masks = sw.prune(model, Magnitude(), scope=Named(thresholds), protect_classifier=False)
    assert masks["0.weight"].int().tolist() == [[1, 0, 0], [1, 1, 1]]
    assert masks["1.weight"].int().tolist() == [[1, 1], [1, 0]]
    assert masks["2.weight"].int().tolist() == [[1, 1], [1, 0]]
    above: Amounts = {
        "0": Threshold(float(torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)))),
        "*": Threshold(0.25),
    }
    open_end = sw.prune(model, Magnitude(), scope=Named(above), protect_classifier=False)
    assert torch.equal(open_end["0.weight"], model.get_parameter("0.weight").abs() > 0.5)


@pytest.mark.parametrize("constant", [0.0, 0.3, -2.0])
@given(st.floats(0, 1))
def test_004_31_a_level_is_exact_on_a_constant_tensor(constant: float, sparsity: float) -> None:
    """Also 0 and 1; of equal weights those of lower index stay."""
    layer = nn.Linear(10, 10)
    nn.init.constant_(layer.weight, constant)
    mask = sw.prune(layer, Magnitude(), sparsity, min_units=0)["weight"].flatten()
    kept = 100 - round(sparsity * 100)
    assert mask.tolist() == [True] * kept + [False] * (100 - kept)


def test_004_31_seven_tenths_of_a_constant_tensor_stay() -> None:
    """Where a comparison with the k-th weight keeps none."""
    layer = nn.Linear(10, 10)
    nn.init.ones_(layer.weight)
    kth = layer.weight.detach().abs().flatten().kthvalue(30).values
    assert int((layer.weight.abs() > kth).sum()) == 0
    assert int(sw.prune(layer, Magnitude(), 0.3)["weight"].sum()) == 70


# ---------------------------------------------------------------- structures


def test_004_39_random_filters_are_exact_repeatable_and_even() -> None:
    """Each of 8 filters goes in about half of 400 draws, however large its weights are."""
    layer = nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(-3, 3, 8)[:, None, None, None])

    def removed(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        mask = sw.prune(layer, Random(), 0.5, granularity=Filter(), generator=generator)["weight"].flatten(1)
        assert torch.equal(mask.all(1), mask.any(1))
        assert int(mask.any(1).sum()) == 4
        return ~mask.any(1)

    assert torch.equal(removed(7), removed(7))
    times = sum(removed(seed).int() for seed in range(400))
    assert isinstance(times, Tensor)
    assert 200 - 50 < int(times.min()) <= int(times.max()) < 200 + 50  # five standard deviations of 10


STRUCTURES: list[tuple[Granularity, tuple[int, ...], tuple[int, ...]]] = [
    (Filter(), (8, 6, 3, 3), (1, 6, 3, 3)),
    (Channel(), (8, 6, 3, 3), (8, 1, 3, 3)),
    (Kernel(), (8, 6, 3, 3), (1, 1, 3, 3)),
    (Row(), (8, 6), (1, 6)),
    (Column(), (8, 6), (8, 1)),
    (Block((4, 3, 1, 1)), (8, 6, 3, 3), (4, 3, 1, 1)),
]


@pytest.mark.parametrize(("granularity", "shape", "size"), STRUCTURES, ids=str)
@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_004_40_structures_by_norms(
    granularity: Granularity, shape: tuple[int, ...], size: tuple[int, ...], p: float
) -> None:
    """The units cut out one by one with slices; the lowest norms go, the number of units is exact."""
    layer = nn.Linear(6, 8) if len(shape) == 2 else nn.Conv2d(6, 8, 3)
    mask = sw.prune(layer, LpNorm(p), 0.5, granularity=granularity)["weight"]
    weight = layer.weight.detach()
    corners = torch.cartesian_prod(*(torch.arange(0, n, step) for n, step in zip(shape, size, strict=True)))
    pieces = [tuple(slice(int(a), int(a) + n) for a, n in zip(corner, size, strict=True)) for corner in corners]
    kept = [bool(mask[piece].any()) for piece in pieces]
    assert kept == [bool(mask[piece].all()) for piece in pieces]
    norms = [float(torch.linalg.vector_norm(weight[piece], p)) for piece in pieces]
    assert len(kept) - sum(kept) == round(0.5 * len(kept))
    stay, go = ([norm for norm, keep in zip(norms, kept, strict=True) if keep is wanted] for wanted in (True, False))
    assert min(stay) >= max(go) * (1 - 1e-6)


def test_004_40_norms_over_the_size_compare_units_of_different_size() -> None:
    """Filters of 54 weights of 1 and of 18 weights of 2: the sum removes the small ones, the mean the large ones."""
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.Conv2d(2, 4, 3))
    for parameter, value in (("0.weight", 1.0), ("1.weight", 2.0)):
        model.get_parameter(parameter).data.fill_(value)
    for normalized, gone in ((False, "1.weight"), (True, "0.weight")):
        masks = sw.prune(
            model, LpNorm(1, normalized), 3, granularity=Filter(), protect_classifier=False
        )  # fmt: skip
        assert {name: int((~mask).flatten(1).any(1).sum()) for name, mask in masks.items() if not mask.all()} == {
            gone: 3
        }


def test_004_40_units_that_meet_in_a_sum_have_one_mask() -> None:
    """What a list of leader and followers says by hand follows from the network."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.branch(x)).mean((2, 3))

    torch.manual_seed(0)
    masks = sw.prune_units(Residual(), torch.randn(1, 3, 8, 8), LpNorm(1), 0.5)
    kept = masks["stem.weight"].flatten(1).any(1)
    assert int(kept.sum()) == 4
    assert torch.equal(masks["branch.weight"].flatten(1).any(1), kept)
    assert torch.equal(masks["branch.weight"].transpose(0, 1).flatten(1).any(1), kept)
    assert torch.equal(masks["head.weight"].transpose(0, 1).flatten(1).any(1), kept)
