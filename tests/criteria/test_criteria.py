"""Criteria against their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood import criteria as module
from sparsewood.allocation import PerRow
from sparsewood.criteria import (
    LAMP,
    ActivationMagnitude,
    BatchNormScale,
    Criterion,
    Inputs,
    LpNorm,
    Magnitude,
    MeanPower,
    Random,
    WeightTimesAbsoluteGradient,
    WeightTimesGradient,
)
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import Channel, Element, Filter, Units
from sparsewood.pruning import prune, score
from sparsewood.testing import ARCHITECTURES, check_criterion, constant_filters, counting_linear, product_network
from sparsewood.testing.strategies import score_tensors, shapes

VARIANTS: dict[str, list[Criterion]] = {
    "LpNorm": [LpNorm(1), LpNorm(2), LpNorm(3), LpNorm(math.inf), LpNorm(1, normalized=True)],
    "MeanPower": [MeanPower(1), MeanPower(2), MeanPower(0.5)],
    "ActivationMagnitude": [ActivationMagnitude(1), ActivationMagnitude(2), ActivationMagnitude(4)],
}


@pytest.mark.parametrize(
    "criterion", [c for name in module.__all__ for c in VARIANTS.get(name) or [getattr(module, name)()]], ids=str
)
def test_contract(criterion: Criterion) -> None:
    """[7.7] [7.23] And the rest of what every criterion promises."""
    check_criterion(criterion)


def mean_of_outputs(output: Tensor, _: object) -> Tensor:
    return output.sum() / len(output)


def square(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).mean()


# ---------------------------------------------------------------- weights alone


def test_magnitude_by_hand() -> None:
    assert score(counting_linear(2, 2), Magnitude())["weight"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (Magnitude(), [18, 9, 36]),  # level * 9
        (LpNorm(1), [18, 9, 36]),
        (LpNorm(1, normalized=True), [2, 1, 4]),  # whatever the size
        (LpNorm(2), [6, 3, 12]),  # sqrt(9 level^2)
        (LpNorm(math.inf), [2, 1, 4]),
        (MeanPower(2), [4, 1, 16]),
        (MeanPower(1), [2, 1, 4]),
    ],
    ids=str,
)
def test_constant_filters(criterion: Criterion, expected: list[float]) -> None:
    """[000-07] L1 norms of filters in closed form, and per weight."""
    layer = constant_filters([2.0, -1.0, 4.0])
    scores = score(layer, criterion, granularity=Filter())["weight"]
    torch.testing.assert_close(scores.flatten(), torch.tensor(expected).float())


def test_normalising_makes_layers_of_other_sizes_comparable() -> None:
    """[000-07] Raw L1 favours the layer with more inputs."""
    model = nn.Sequential(constant_filters([1.0, 3.0], inputs=8), constant_filters([2.0, 4.0], inputs=1))
    options: dict[str, Any] = {"granularity": Filter(), "protect_classifier": False, "min_units": 0}
    raw = prune(model, LpNorm(1), 2, **options)
    fair = prune(model, LpNorm(1, normalized=True), 2, **options)
    assert [int(m[:, 0, 0, 0].sum()) for m in raw.values()] == [2, 0]
    assert [m[:, 0, 0, 0].tolist() for m in fair.values()] == [[False, True], [False, True]]


def test_mean_power_of_the_published_example() -> None:
    """[003-04] range(30) as (3, 2, 5), units last: unit 0 scores 229.1667; p = 1 gives mean |w|."""
    values = torch.arange(30.0).reshape(3, 2, 5).permute(2, 1, 0)  # units first
    layer = nn.Conv1d(2, 5, 3, bias=False)
    layer.weight.data = values.clone()
    squares = score(layer, MeanPower(2), granularity=Filter())["weight"].flatten()
    assert squares[0].item() == pytest.approx(229.1667, abs=1e-4)
    torch.testing.assert_close(squares, (values**2).mean((1, 2)))
    means = score(layer, MeanPower(1), granularity=Filter())["weight"].flatten()
    torch.testing.assert_close(means, values.abs().mean((1, 2)))


@given(score_tensors(shapes(min_axes=2, max_axes=4)), st.sampled_from([1.0, 2.0, 3.0, math.inf]))
def test_norms_equal_torch(weight: Tensor, p: float) -> None:
    weight = weight.clamp(-1e3, 1e3)
    layer = nn.Module()
    layer.weight = nn.Parameter(weight)
    scores = score(layer, LpNorm(p), granularity=Units((1,)), include="weight")["weight"]
    others = tuple(d for d in range(weight.ndim) if d != 1)
    expected = torch.linalg.vector_norm(weight, p, dim=others, keepdim=True)
    torch.testing.assert_close(scores, expected.to(scores.dtype), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("criterion", [LpNorm(12), MeanPower(12)], ids=repr)
def test_high_powers_of_small_weights_are_not_all_zero(criterion: Criterion) -> None:
    layer = counting_linear(2, 2)
    layer.weight.data = torch.tensor([[3e-5, 1e-5], [4e-5, 2e-5]])
    assert prune(layer, criterion, 0.5)["weight"].tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize(
    "make", [lambda: LpNorm(0), lambda: LpNorm(-1), lambda: LpNorm(math.nan), lambda: MeanPower(math.inf),
             lambda: MeanPower(0), lambda: ActivationMagnitude(0), lambda: ActivationMagnitude(math.inf)]
)  # fmt: skip
def test_bad_powers(make: Callable[[], Criterion]) -> None:
    with pytest.raises(SparsewoodError, match=r"(LpNorm|MeanPower|ActivationMagnitude) needs .*p > 0.*Got"):
        make()


@given(score_tensors(shapes(max_size=4), torch.float64))
def test_lamp_equals_its_formula(weight: Tensor) -> None:
    """w_i^2 over the sum of w_j^2 of all j ranked at or above i; equal magnitudes rank by position."""
    weight = weight.clamp(-1e9, 1e9)
    flat = weight.reshape(-1).tolist()
    ranking = sorted(range(len(flat)), key=lambda i: (-(flat[i] ** 2), i))
    expected = [0.0] * len(flat)
    for place, i in enumerate(ranking):
        total = math.fsum(flat[j] ** 2 for j in ranking[: place + 1])
        expected[i] = flat[i] ** 2 / total if total > 1e-290 else 0.0
    scores = LAMP()(Inputs("w", weight)).reshape(-1)
    if max(x**2 for x in flat) > 1e-290:
        torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
        assert scores.max() == 1


def test_lamp_of_zeros_is_zero() -> None:
    assert LAMP()(Inputs("w", torch.zeros(2, 3))).tolist() == [[0.0] * 3] * 2


def test_lamp_does_not_see_the_scale_of_a_layer() -> None:
    weight = torch.randn(50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(LAMP()(Inputs("w", weight)), LAMP()(Inputs("w", 1024 * weight)))


def test_batchnorm_scale_chooses_only_scales() -> None:
    """[004-08] |gamma| of BatchNorm, across layers; nothing else is touched."""
    model = next(a for a in ARCHITECTURES if a.name == "pad_shortcut").build()
    with torch.no_grad():
        model[1].bn1.weight.copy_(torch.tensor([1, -2, 3, -4, 5, -6, 7, -8.0]))
        model[1].bn2.weight.copy_(torch.tensor([0.5] * 4 + [9.0] * 4))
    masks = prune(model, BatchNormScale(), 6)
    assert set(masks) == {"1.bn1.weight", "1.bn2.weight"}
    assert masks["1.bn1.weight"].tolist() == [False] * 2 + [True] * 6
    assert masks["1.bn2.weight"].tolist() == [False] * 4 + [True] * 4


def test_random_scores_are_uniform_numbers() -> None:
    scores = score(nn.Linear(100, 100), Random())["weight"]
    assert 0 <= scores.min() < 0.01
    assert 0.99 < scores.max() < 1
    assert abs(scores.mean() - 0.5) < 0.02


# ---------------------------------------------------------------- gradients


def test_weight_times_gradient_by_hand() -> None:
    """y = 2 * 3 * 5 x: w dy/dw = y for each w; mean over x = 1, 2, 3 of y = 30 x."""
    model = product_network(2.0, -3.0, 5.0)
    scores = score(model, WeightTimesGradient(), data=[torch.tensor([[1.0], [2.0], [3.0]])], loss=mean_of_outputs)
    assert [s.item() for s in scores.values()] == [60.0] * 3


def test_signs_cancel_only_in_the_signed_version() -> None:
    """Examples of opposite sign: |mean| is 0, mean || is 30. [7.16]"""
    model, data = product_network(2.0, 3.0, 5.0), [torch.tensor([[1.0], [-1.0]])]
    signed = score(model, WeightTimesGradient(), data=data, loss=mean_of_outputs)
    absolute = score(model, WeightTimesAbsoluteGradient(), data=data, loss=mean_of_outputs)
    assert [s.item() for s in signed.values()] == [0.0] * 3
    assert [s.item() for s in absolute.values()] == [30.0] * 3


def sum_of_weighted(output: Tensor, _: object) -> Tensor:
    return output.sum() / len(output)


def test_unit_gradients_give_magnitude() -> None:
    """[002-05] With g = 1 the score is |w|: a linear layer fed ones."""
    layer = counting_linear(3, 4)
    scores = score(layer, WeightTimesGradient(), data=[torch.ones(5, 4)], loss=mean_of_outputs)
    assert torch.equal(scores["weight"], score(layer, Magnitude())["weight"])


def test_unit_weights_give_the_gradient() -> None:
    """[002-05] With w = 1 the score is |g|, here the mean input."""
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data.fill_(1)
    data = torch.tensor([[1.0, -2.0, 0.0], [3.0, -4.0, 0.0]])
    scores = score(layer, WeightTimesGradient(), data=[data], loss=mean_of_outputs)["weight"]
    assert scores.tolist() == [[2.0, 3.0, 0.0]] * 2


def test_gradient_pruning_masks_the_weights_themselves() -> None:
    """[002-06] The result is mask * w, not w * g."""
    layer = counting_linear(2, 4)
    mask = prune(layer, WeightTimesGradient(), 4, data=[torch.ones(1, 4)], loss=mean_of_outputs)["weight"]
    assert (mask * layer.weight).tolist() == [[0, 0, 0, 0], [5, -6, 7, -8]]


def trained_model() -> tuple[nn.Module, Tensor, Tensor]:
    architecture = next(a for a in ARCHITECTURES if a.name == "conv_norm")
    return architecture.build(), architecture.inputs(12), torch.arange(12) % 3


@pytest.mark.parametrize("criterion", [WeightTimesGradient(), WeightTimesAbsoluteGradient()], ids=str)
def test_gradients_equal_a_loop_over_examples(criterion: Criterion) -> None:
    model, x, y = trained_model()
    model.eval()
    per_example = []
    for i in range(len(x)):
        loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        per_example.append(torch.autograd.grad(loss, [model[0].weight, model[3].weight]))
    scores = score(model, criterion, data=[(x, y)], loss=F.cross_entropy, include=["0", "3"])
    for k, (name, layer) in enumerate((("0.weight", model[0]), ("3.weight", model[3]))):
        gradients = torch.stack([g[k] for g in per_example])
        absolute = isinstance(criterion, WeightTimesAbsoluteGradient)
        mean = gradients.abs().mean(0) if absolute else gradients.mean(0).abs()
        torch.testing.assert_close(scores[name], layer.weight.detach().abs() * mean, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["WeightTimesGradient", "WeightTimesAbsoluteGradient", "ActivationMagnitude"])
@pytest.mark.parametrize("cut", [[12], [6, 6], [1] * 12, [5, 7], [11, 1]], ids=str)
def test_how_the_data_is_cut_does_not_matter(name: str, cut: list[int]) -> None:
    """[7.17] [004-20] Batches of any size, the last one partial, in float64."""
    model, x, y = trained_model()
    model, x = model.double(), x.double()
    criterion = getattr(module, name)()
    whole = score(model, criterion, data=[(x, y)], loss=F.cross_entropy)
    parts = list(zip(x.split(cut), y.split(cut), strict=True))
    for found in (parts, parts[::-1]):
        for parameter, scores in score(model, criterion, data=found, loss=F.cross_entropy).items():
            torch.testing.assert_close(scores, whole[parameter], rtol=1e-9, atol=1e-14)


def test_half_precision_statistics_are_summed_in_float32() -> None:
    """[7.17] A thousand batches of one in bfloat16: sums of 8 bits would stop growing at 256."""
    layer = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    layer.weight.data.fill_(1)
    data = [torch.ones(1, 1, dtype=torch.bfloat16)] * 1000
    assert score(layer, WeightTimesGradient(), data=data, loss=mean_of_outputs)["weight"].item() == 1.0
    assert score(layer, ActivationMagnitude(), data=data)["weight"].item() == 1.0


def test_a_mean_loss_is_weighted_by_examples() -> None:
    """[7.20] Batches of one and three: the mean over four examples, not over two batches."""
    model = product_network(1.0)
    data = [torch.tensor([[8.0]]), torch.tensor([[0.0], [0.0], [0.0]])]
    assert score(model, WeightTimesGradient(), data=data, loss=mean_of_outputs)["0.weight"].item() == 2.0


# ---------------------------------------------------------------- activations


def test_activation_magnitude_by_hand() -> None:
    """|w| times the root mean square of its input: inputs (3, 4 -> rms sqrt(12.5)) and (1, 1)."""
    layer = counting_linear(1, 2)
    data = [torch.tensor([[3.0, 1.0], [4.0, -1.0]])]
    scores = score(layer, ActivationMagnitude(), data=data)["weight"]
    torch.testing.assert_close(scores, torch.tensor([[math.sqrt(12.5), 2.0]]))
    absolute = score(layer, ActivationMagnitude(1), data=data)["weight"]
    torch.testing.assert_close(absolute, torch.tensor([[3.5, 2.0]]))


def test_wanda() -> None:
    """|w| * ||x||_2, compared within each output row, against the formula itself."""
    model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8))
    x = torch.randn(30, 16, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 17.0)
    masks = prune(model, ActivationMagnitude(), 0.5, scope=PerRow(), data=x.split(7), protect_classifier=False)
    inputs = {"0.weight": x, "2.weight": model[:2](x).detach()}
    for name, mask in masks.items():
        weight = dict(model.named_parameters())[name].detach()
        metric = weight.abs() * inputs[name].norm(dim=0)
        lowest = metric.sort(dim=1, stable=True).indices[:, : weight.shape[1] // 2]
        expected = torch.ones_like(mask).scatter_(1, lowest, False)
        assert torch.equal(mask, expected)


CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3, padding=1),
    nn.Conv2d(4, 6, 3, groups=2),
    nn.Conv2d(4, 8, 3, groups=4, stride=2),
    nn.Conv2d(4, 4, 3, groups=4),
    nn.Conv2d(4, 1, 1),
    nn.Conv1d(4, 6, 3, groups=2),
    nn.Conv3d(4, 2, 1),
    nn.ConvTranspose2d(4, 6, 3),
    nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2),
    nn.ConvTranspose1d(4, 2, 2),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
def test_input_of_each_convolution_weight(layer: Any) -> None:
    """Each weight is scaled by the channel it really multiplies: found by making one channel at a time non-zero."""
    spatial = len(layer.kernel_size)
    x = torch.randn(3, 4, *[5] * spatial, generator=torch.Generator().manual_seed(0))
    found = score(layer, ActivationMagnitude(), data=[x])["weight"]
    rms = x.square().transpose(0, 1).flatten(1).mean(1).sqrt()
    expected = torch.full_like(layer.weight, math.nan)
    for channel in range(4):
        one = torch.zeros_like(x)
        one[:, channel] = 1
        gradient = torch.autograd.grad(layer(one).sum(), layer.weight)[0]
        expected[gradient != 0] = rms[channel]
    torch.testing.assert_close(found, layer.weight.detach().abs() * expected)


def test_convolution_inputs_equal_unfold() -> None:
    """The mean square of a channel over positions, as the interior patches of a 1 x 1 unfold see it."""
    layer = nn.Conv2d(3, 5, 1, bias=False)
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    patches = F.unfold(x, 1).transpose(0, 1).flatten(1)  # (channels, examples * positions)
    expected = layer.weight.detach().abs() * patches.square().mean(1).sqrt()[None, :, None, None]
    torch.testing.assert_close(score(layer, ActivationMagnitude(), data=[x])["weight"], expected)


def test_windows_in_the_batch_axis_weigh_no_more() -> None:
    """A layer that sees each example as four windows has the statistics of one that sees it whole."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole, self.window = nn.Linear(3, 3), nn.Linear(3, 3)
            self.window.load_state_dict(self.whole.state_dict())

        def forward(self, x: Tensor) -> Tensor:
            return self.whole(x).sum() + self.window(x.reshape(-1, x.shape[1] // 4, 3)).sum()

    scores = score(Windows(), ActivationMagnitude(), data=[torch.randn(5, 8, 3)])
    torch.testing.assert_close(scores["whole.weight"], scores["window.weight"])


def test_a_layer_without_inputs_is_named() -> None:
    model = next(a for a in ARCHITECTURES if a.name == "attention").build()
    message = r"No 'input power 2' for attention.in_proj_weight \(MultiheadAttention\).*exclude="
    with pytest.raises(SparsewoodError, match=message):
        prune(model, ActivationMagnitude(), 0.5, data=[torch.randn(2, 5, 8)])


@pytest.mark.parametrize("granularity", [Element(), Filter(), Channel()], ids=str)
def test_units_sum_their_elements(granularity: Any) -> None:
    model, x, y = trained_model()
    for criterion in (Magnitude(), WeightTimesGradient(), ActivationMagnitude()):
        elements = score(model, criterion, data=[(x, y)], loss=F.cross_entropy)["3.weight"]
        units = score(model, criterion, data=[(x, y)], loss=F.cross_entropy, granularity=granularity)["3.weight"]
        others = [d for d in range(4) if units.shape[d] == 1 and elements.shape[d] > 1]
        torch.testing.assert_close(units, elements.sum(others, keepdim=True) if others else elements)
