"""What is scored before training: connection sensitivity, GraSP, SynFlow, ECS, and small steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.criteria import ECS, GraSP, Magnitude, Random, SynFlow, WeightTimesGradient
from sparsewood.errors import SparsewoodError
from sparsewood.statistics import AbsoluteGradient, Gradient, HessianGradient, SynapticFlow, collect

Batch = tuple[Tensor, Tensor]


def network(*, norm: bool = False, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(1, 4, 3, padding=1), *([nn.BatchNorm2d(4)] if norm else []), activation()]
    layers += [nn.Conv2d(4, 6, 3), activation(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 8), activation()]
    return nn.Sequential(*layers, nn.Linear(8, 3))


def batches(*sizes: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 1, 8, 8, generator=generator), torch.randint(3, (size,), generator=generator))
        for size in sizes or (6, 6)
    ]


def weight(model: nn.Module, layer: int) -> nn.Parameter:
    return dict(model.named_parameters())[f"{layer}.weight"]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# ---------------------------------------------------------------- connection sensitivity


def test_001_01_the_score_is_the_derivative_by_a_factor_of_the_weight() -> None:
    """|dL/dc| of weights c w at c = 1, and L(c_j = 1) - L(c_j = 1 - e) is about e f_j."""
    model, data = network().double(), [(x.double(), y) for x, y in batches(8)]
    scores = sw.score(model, WeightTimesGradient(), data=data, loss=F.cross_entropy)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    factors = {name: torch.ones_like(weights[name]).requires_grad_() for name in scores}

    def loss(at: dict[str, Tensor]) -> Tensor:
        given = weights | {name: at[name] * weights[name] for name in at}
        return F.cross_entropy(torch.func.functional_call(model, given, data[0][0]), data[0][1])

    gradients = torch.autograd.grad(loss(factors), list(factors.values()))
    for name, gradient in zip(factors, gradients, strict=True):
        torch.testing.assert_close(scores[name], gradient.abs(), rtol=1e-12, atol=1e-15)
    name, place, step = "8.weight", (2, 3), 1e-6
    moved = {key: value.detach().clone() for key, value in factors.items()}
    moved[name][place] -= step
    change = loss({key: value.detach() for key, value in factors.items()}) - loss(moved)
    assert abs(float(change)) == pytest.approx(step * float(scores[name][place]), rel=1e-4)


def test_001_01_masks_are_those_of_the_weights_that_are_trained() -> None:
    """No copy is drawn anew: scores follow the weights, and the weights are bit for bit what they were."""
    model, data = network(norm=True), batches()
    before = state(model)
    for criterion in (WeightTimesGradient(), WeightTimesGradient("train"), GraSP(), SynFlow(), ECS()):
        sw.prune(model, criterion, 0.5, data=data, loss=F.cross_entropy, iterations=3)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), criterion
    first = sw.score(model, WeightTimesGradient(), data=data, loss=F.cross_entropy)["0.weight"]
    weight(model, 0).data[0] = 0
    assert not sw.score(model, WeightTimesGradient(), data=data, loss=F.cross_entropy)["0.weight"][0].any()
    assert first[0].any()


def test_004_20_scores_do_not_depend_on_batches_and_zero_biases_score_0() -> None:
    model = network().double()
    nn.init.zeros_(dict(model.named_parameters())["8.bias"])
    data = [(x.double(), y) for x, y in batches(4, 8)]
    whole = [(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))]
    given: dict[str, Any] = {"loss": F.cross_entropy, "include": ["*.weight", "*.bias"]}
    parts, one = (sw.score(model, WeightTimesGradient(), data=some, **given) for some in (data, whole))
    for name in one:
        torch.testing.assert_close(parts[name], one[name])
    assert not one["8.bias"].any()
    assert one["0.bias"].any()


def test_in_train_mode_batchnorm_goes_by_the_batch_and_nothing_is_left_behind() -> None:
    model, data = network(norm=True), batches(8)
    before = state(model)
    found = collect(model, data, [Gradient(), Gradient("train")], F.cross_entropy)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    expected = torch.autograd.grad(F.cross_entropy(model(data[0][0]), data[0][1]), [weight(model, 0)])[0]
    torch.testing.assert_close(found.sums["gradient, train mode"]["0.weight"] / 8, expected)
    assert not torch.allclose(found.sums["gradient"]["0.weight"] / 8, expected)
    model.load_state_dict(before)
    again = collect(model, data, [Gradient("train")], F.cross_entropy)
    torch.testing.assert_close(again.sums["gradient, train mode"], found.sums["gradient, train mode"])


def test_dropout_in_train_mode_is_the_same_in_every_call() -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 3))
    data = [(torch.randn(8, 4), torch.randint(3, (8,)))] * 2
    one, other = (sw.score(model, WeightTimesGradient("train"), data=data, loss=F.cross_entropy) for _ in range(2))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    eval_mode = sw.score(model, WeightTimesGradient(), data=data, loss=F.cross_entropy)
    assert not torch.equal(one["0.weight"], eval_mode["0.weight"])


def test_modes_that_are_none_and_statistics_that_do_not_go_together() -> None:
    for make in (WeightTimesGradient, ECS, Gradient, lambda mode: GraSP(mode=mode)):
        with pytest.raises(SparsewoodError, match="mode must be one of eval, train"):
            make("test")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SparsewoodError, match="two passes"):
        collect(network(), batches(2), [AbsoluteGradient(), Gradient("train")], F.cross_entropy)


# ---------------------------------------------------------------- GraSP


def test_004_50_the_hessian_times_the_gradient() -> None:
    """Against a finite difference of the gradient along itself; the scores sum to w . H g."""
    model, data = network(activation=nn.Tanh).double(), [(x.double(), y) for x, y in batches(4, 8)]
    names = [name for name, p in model.named_parameters() if p.dim() > 1]
    found = collect(model, data, [HessianGradient()], F.cross_entropy, names=names)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    whole = (torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))

    def gradient(at: dict[str, Tensor]) -> dict[str, Tensor]:
        variables = {name: at[name].detach().requires_grad_() for name in names}
        value = F.cross_entropy(torch.func.functional_call(model, weights | variables, whole[0]), whole[1])
        return dict(zip(names, torch.autograd.grad(value, list(variables.values())), strict=True))

    along = gradient(weights)
    step = 1e-5
    up, down = (gradient({n: weights[n] + sign * step * along[n] for n in names}) for sign in (1, -1))
    kind = HessianGradient().kind
    for name in names:
        difference = (up[name] - down[name]) / (2 * step)
        torch.testing.assert_close(found.sums[kind][name] / found.samples, difference, rtol=1e-6, atol=1e-9)
    scores = sw.score(model, GraSP(temperature=1), data=data, loss=F.cross_entropy, include=names)
    total = sum(float((weights[name] * found.sums[kind][name]).sum()) / found.samples for name in names)
    assert sum(float(one.sum()) for one in scores.values()) == pytest.approx(total)


def test_004_50_what_goes_first_keeps_the_gradient_large() -> None:
    """Pruned by the score, the norm of the gradient is larger than pruned at random or the wrong way round."""
    model, data = network().double(), [(x.double(), y) for x, y in batches(32)]
    scores = sw.score(model, GraSP(temperature=1), data=data, loss=F.cross_entropy)

    def flow(masks: sw.Masks) -> float:
        with sw.masks.masked(model, masks):
            value = F.cross_entropy(model(data[0][0]), data[0][1])
            found = torch.autograd.grad(value, [dict(model.named_parameters())[name] for name in masks])
        return sum(float(g.square().sum()) for g in found)

    kept = sw.prune(model, GraSP(temperature=1), 0.3, data=data, loss=F.cross_entropy, protect_classifier=False)
    worst = torch.cat([-one.flatten() for one in scores.values()]).topk(round(0.7 * kept.total)).indices
    flat = torch.zeros(kept.total, dtype=torch.bool)
    flat[worst] = True
    sizes = [one.numel() for one in scores.values()]
    wrong = {n: m.view_as(scores[n]) for n, m in zip(scores, flat.split(sizes), strict=True)}
    draws = [torch.Generator().manual_seed(seed) for seed in range(10)]
    random = [flow(sw.prune(model, Random(), 0.3, generator=g, protect_classifier=False)) for g in draws]
    assert flow(kept) > max(random)
    assert flow(sw.Masks(wrong)) < min(random)


def test_004_50_temperature_and_tiny_amounts() -> None:
    model, data = network(), batches(8)
    hot, cold = (sw.score(model, GraSP(t), data=data, loss=F.cross_entropy)["0.weight"] for t in (200, 1))
    assert not torch.allclose(hot / hot.norm(), cold / cold.norm(), atol=1e-3)
    masks = sw.prune(model, GraSP(), 0, data=data, loss=F.cross_entropy)
    assert masks.removed == 0
    with pytest.raises(SparsewoodError, match="temperature must be a number above 0"):
        GraSP(temperature=0)


# ---------------------------------------------------------------- SynFlow


def layer_sums(model: nn.Module, x: Tensor) -> list[float]:
    return [float(one.sum()) for one in sw.score(model, SynFlow(), data=[x]).values()]


@pytest.mark.parametrize("norm", [False, True])
def test_004_51_flow_is_conserved_from_layer_to_layer_and_through_every_unit(*, norm: bool) -> None:
    model = network(norm=norm)
    x = batches(4)[0][0]
    sums = layer_sums(model, x)
    torch.testing.assert_close(sums, [sums[0]] * 4, rtol=1e-13, atol=0)
    scores = sw.score(model, SynFlow(), data=[x])
    into, out = scores[f"{6 + norm}.weight"].sum(1), scores[f"{8 + norm}.weight"]
    torch.testing.assert_close(into, out.sum(0), rtol=1e-13, atol=0)


def test_004_51_layer_sums_of_vgg16_in_float64() -> None:
    """Conserved to 1e-12, at a size of images at which five poolings leave one place."""
    model = sw.models.vgg(16, generator=torch.Generator().manual_seed(0))
    sums = layer_sums(model, torch.zeros(1, 3, 32, 32))
    assert len(sums) == 16
    torch.testing.assert_close(sums, [sums[0]] * 16, rtol=1e-12, atol=0)


def test_004_51_flow_through_the_whole_network_by_hand() -> None:
    """R of a 3-layer network is 1' |W3| |W2| |W1| 1; biases and the data's values do not count."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    first, second, third = (weight(model, i).detach().double().abs() for i in (0, 2, 4))
    expected = float((third @ second @ first).sum())
    for x in (torch.zeros(2, 3), torch.randn(7, 3)):
        assert layer_sums(model, x) == pytest.approx([expected] * 3, rel=1e-12)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.GELU, nn.ReLU6, nn.SiLU, nn.Hardtanh])
def test_flow_does_not_stop_at_activations_that_saturate(activation: type[nn.Module]) -> None:
    x = batches(1)[0][0]
    assert layer_sums(network(activation=activation), x) == pytest.approx(layer_sums(network(), x), rel=1e-12)


class Normalized(nn.Module):
    """Functional activations, normalisations of single examples, tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.norm = nn.Embedding(7, 6), nn.LayerNorm(6)
        self.conv, self.group, self.by_batch = nn.Conv1d(6, 4, 1), nn.GroupNorm(2, 4), nn.BatchNorm1d(4, momentum=None)
        self.last = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.words(tokens)).transpose(1, 2)
        x = torch.tanh(self.by_batch(self.group(self.conv(x)))).mean(-1)
        return F.log_softmax(self.last(F.gelu(x)), dim=-1)


def test_flow_through_normalisations_and_functional_activations_is_conserved() -> None:
    model = Normalized()
    scores = sw.score(model, SynFlow(), data=[torch.randint(7, (2, 5))])
    sums = [float(one.sum()) for one in scores.values()]
    assert sums == pytest.approx([sums[0]] * 2, rel=1e-6)
    assert sums[0] > 0


def test_004_51_no_layer_is_emptied_before_one_weight_is_left_in_each() -> None:
    """In 100 steps down to the critical compression; at once, SynFlow too empties layers."""
    model = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 10), nn.ReLU(), nn.Linear(10, 5))
    given: dict[str, Any] = {"data": [torch.ones(1, 20)], "min_units": 0, "protect_classifier": False}
    keep = sw.Count(sum(p.numel() for p in model.parameters() if p.dim() > 1) - 12)
    small_steps = sw.prune(model, SynFlow(), keep, iterations=100, **given)
    assert all(bool(mask.any()) for mask in small_steps.values())
    assert int(sum(mask.sum() for mask in small_steps.values())) == 12
    assert min(layer_sums_of(model, small_steps)) > 0, "there is still a way from the inputs to the outputs"
    at_once = sw.prune(model, SynFlow(), keep, **given)
    assert any(not torch.equal(at_once[name], mask) for name, mask in small_steps.items())


def layer_sums_of(model: nn.Module, masks: sw.Masks) -> list[float]:
    with sw.masks.masked(model, masks):
        return layer_sums(model, torch.ones(1, 20))


def test_004_51_what_is_too_large_for_float32_is_said() -> None:
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(30)))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1.0)
    x = torch.ones(1, 64)
    with pytest.raises(SparsewoodError, match=r"too large for torch\.float32\. Use precision='float64'"):
        sw.score(model, SynFlow("float32"), data=[x])
    sums = layer_sums(model, x)
    assert sums == pytest.approx([64.0**31] * 30)
    with pytest.raises(SparsewoodError, match="precision must be one of float32, float64"):
        SynapticFlow("half")  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------- ECS


def test_001_05_exactly_as_many_stay_as_are_asked_for_and_those_that_either_percentile_keeps() -> None:
    model, data = network(), batches(8)
    statistics = collect(model, data, [Gradient()], F.cross_entropy)
    masks = sw.prune(model, ECS(), 0.9, data=data, loss=F.cross_entropy, protect_classifier=False)
    weights = torch.cat([dict(model.named_parameters())[name].detach().flatten() for name in masks]).abs()
    gradients = torch.cat([statistics.sums["gradient"][name].flatten() for name in masks]).abs()
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    total = len(weights)
    assert int(kept.sum()) == total - round(0.9 * total)

    def either(top: int) -> Tensor:
        return (weights >= weights.topk(top).values[-1]) | (gradients >= gradients.topk(top).values[-1])

    low, high = 1, total
    while high - low > 1:  # the percentile at which as many stay, by bisection
        middle = (low + high) // 2
        low, high = (middle, high) if int(either(middle).sum()) <= int(kept.sum()) else (low, middle)
    assert bool((kept | ~either(low)).all()), "what either percentile keeps is kept"
    assert int(kept.sum()) - int(either(low).sum()) in (0, 1)


def test_001_05_with_equal_gradients_it_is_magnitude() -> None:
    model = nn.Linear(6, 4)
    data = [(torch.ones(3, 6), torch.zeros(3))]
    given: dict[str, Any] = {"data": data, "loss": lambda out, _: out.sum() / len(out), "protect_classifier": False}
    masks = sw.prune(model, ECS(), 0.5, **given)
    assert torch.equal(masks["weight"], sw.prune(model, Magnitude(), 0.5, protect_classifier=False)["weight"])


# ---------------------------------------------------------------- small steps


def test_iterations_reach_what_is_asked_and_never_bring_back() -> None:
    model, data = network(), batches(8)
    given: dict[str, Any] = {"data": data, "loss": F.cross_entropy}
    for amount in (0.9, sw.Density(0.1), sw.Count(300), sw.Compression(3)):
        once, steps = (sw.prune(model, WeightTimesGradient(), amount, iterations=n, **given) for n in (1, 7))
        assert once.removed == steps.removed
    first = sw.prune(model, WeightTimesGradient(), 0.5, **given)
    later = sw.prune(model, WeightTimesGradient(), 0.9, masks=first, iterations=5, **given)
    assert all(not bool((later[name] & ~first[name]).any()) for name in first)
    half = sw.prune(model, WeightTimesGradient(), sw.Remaining(0.5), masks=first, iterations=3, **given)
    left = first.total - first.removed
    assert half.removed == first.removed + round(0.5 * left)


@pytest.mark.parametrize("scope", [sw.Everywhere(), sw.PerLayer(), sw.PerRow()], ids=str)
@pytest.mark.parametrize("amount", [sw.Compression(6), sw.Density(0.05), sw.Count(650), sw.Remaining(0.9)], ids=str)
def test_iterations_go_on_from_earlier_masks_however_uneven(amount: sw.types.Amount, scope: Any) -> None:
    """The way begins at what is left, so that no step asks for less than what is gone already."""
    model = network()
    first = sw.prune(model, Magnitude(), scope={"0": 0.9, "2": 0.4, "6": 0.6})
    once, steps = (sw.prune(model, Magnitude(), amount, scope=scope, masks=first, iterations=n) for n in (1, 5))
    assert once.removed == steps.removed > first.removed
    assert all(not bool((steps[name] & ~first[name]).any()) for name in first)


def test_001_04_scores_of_every_step_are_of_the_masked_network() -> None:
    """Two steps by hand; FORCE lets weights of the first step come back, iterative SNIP does not."""
    model, data = network(), batches(16)
    given: dict[str, Any] = {"data": data, "loss": F.cross_entropy}
    first = sw.prune(model, WeightTimesGradient(), 1 - 0.1**0.5, **given)
    with sw.masks.masked(model, first):
        statistics = collect(model, data, [Gradient()], F.cross_entropy)
    forced = sw.prune(model, WeightTimesGradient(), 0.9, statistics=statistics)
    held = sw.prune(model, WeightTimesGradient(), 0.9, statistics=statistics, masks=first)
    for masks, revive in ((forced, True), (held, False)):
        found = sw.prune(model, WeightTimesGradient(), 0.9, iterations=2, revive=revive, **given)
        assert all(torch.equal(found[name], masks[name]) for name in masks)
    assert any(bool((forced[name] & ~first[name]).any()) for name in first), "some came back"
    assert all(not bool((held[name] & ~first[name]).any()) for name in first)


def test_data_of_iterations_are_read_once_and_used_again() -> None:
    model, data = network(), batches(4, 4)
    kept = sw.prune(model, WeightTimesGradient(), 0.9, data=iter(data), loss=F.cross_entropy, iterations=4)
    again = sw.prune(model, WeightTimesGradient(), 0.9, data=data, loss=F.cross_entropy, iterations=4)
    torch.testing.assert_close(dict(kept), dict(again))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iterations": 0}, "iterations must be a whole number >= 1"),
        ({"revive": True}, "revive=True is for iterations"),
        ({"iterations": 2, "sparsity": sw.Threshold(0.1)}, "does not say how much goes"),
        ({"iterations": 2, "granularity": sw.NM(2, 4), "sparsity": 0.5}, "fixes how much goes"),
        ({"iterations": 2, "statistics": sw.Statistics({}, 1)}, "taken anew in every step"),
    ],
)
def test_iterations_that_cannot_be(given: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"sparsity": 0.5} | given
    with pytest.raises(SparsewoodError, match=message):
        sw.prune(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), Magnitude(), **options)


def test_a_pruning_has_iterations_too() -> None:
    model, data = network(), batches(8)
    pruning = sw.Pruning(SynFlow(), sw.schedules.OneShot(0.9), iterations=10)
    masks = pruning.choose(model, pruning.plan[0], sw.Masks({}), data=data)
    expected = sw.prune(model, SynFlow(), 0.9, data=data[:1], iterations=10)
    assert all(torch.equal(masks[name], expected[name]) for name in expected)
    with pytest.raises(SparsewoodError, match="iterations=2 is for amounts of the schedule"):
        sw.Pruning(granularity=sw.Coupled(), iterations=2)
    with pytest.raises(SparsewoodError, match="revive is for iterations"):
        sw.Pruning(revive=True)
