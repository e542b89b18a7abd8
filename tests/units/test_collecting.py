"""Statistics of units in one pass: closed forms, additivity, and what is left of a pass (003-01, 7.6, 7.17, 7.23)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.units import (
    AbsoluteFirstOrder,
    AbsoluteMeanReplacement,
    ActivationEnergy,
    ActivationMaximum,
    ActivationMean,
    ActivationMinimum,
    ClassSums,
    Extremes,
    FirstOrder,
    MeanGradient,
    SecondMoments,
    SquaredFirstOrder,
    UnitStatistic,
    UnitStatistics,
    ZeroFraction,
    collect_units,
)

EVERY = (
    ActivationMean(),
    ActivationEnergy(),
    ActivationMaximum(),
    ActivationMinimum(),
    ZeroFraction(),
    ClassSums(3),
    Extremes(),
    SecondMoments(),
    FirstOrder(),
    FirstOrder("mean"),
    AbsoluteFirstOrder(),
    SquaredFirstOrder(),
    MeanGradient(),
)


class Counting(nn.Module):
    """A network that counts how often it is run."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.runs = inner, []

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(len(x))
        return self.inner(x)


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip


def recurrent() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm = nn.Embedding(9, 6), nn.LSTM(6, 4, batch_first=True)
            self.gru, self.head = nn.GRU(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.lstm(self.embed(x))
            z, _ = self.gru(y.transpose(0, 1))  # time first
            return self.head(z[-1])

    torch.manual_seed(0)
    return Net()


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(3, 6), nn.GELU(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x))).mean(1)


def examples(kind: str, count: int = 12) -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(3, (count,), generator=generator)
    if kind == "conv":
        return convnet(), torch.randn(count, 2, 7, 7, generator=generator), labels
    if kind == "tokens":
        torch.manual_seed(1)
        return Tokens(), torch.randn(count, 4, 3, generator=generator), labels
    return recurrent(), torch.randint(9, (count, 6), generator=generator), labels


def cut(x: Tensor, y: Tensor, sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def same(one: UnitStatistics, other: UnitStatistics) -> None:
    assert one.samples == other.samples
    for kind, of in one.sums.items():
        for name, sums in of.items():
            torch.testing.assert_close(sums, other.sums[kind][name], rtol=2e-4, atol=1e-5, msg=f"{kind} at {name}")


@pytest.mark.parametrize("kind", ["conv", "tokens", "recurrent"])
@given(parts=st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_batches_may_be_cut_in_any_way(kind: str, parts: list[int]) -> None:
    model, x, y = examples(kind, sum(parts))
    whole = collect_units(model, [(x, y)], EVERY, F.cross_entropy)
    same(whole, collect_units(model, cut(x, y, parts), EVERY, F.cross_entropy))


def test_parts_of_the_data_add_up() -> None:
    model, x, y = examples("conv")
    structure = sw.trace(model, x)
    kinds = [one for one in EVERY if not isinstance(one, Extremes)]  # which number their examples in each part
    one, two, three = (
        collect_units(model, [p], kinds, F.cross_entropy, structure=structure) for p in cut(x, y, [3, 4, 5])
    )
    whole = collect_units(model, [(x, y)], kinds, F.cross_entropy, structure=structure)
    same((one + two) + three, whole)
    same(one + (two + three), whole)


@pytest.mark.parametrize("statistics", [EVERY[:8], EVERY])
def test_7_6_the_network_runs_once_on_each_batch_however_many_layers_it_has(
    statistics: Sequence[UnitStatistic],
) -> None:
    model, x, y = examples("conv")
    counting = Counting(model)
    found = collect_units(counting, cut(x, y, [5, 5, 2]), statistics, F.cross_entropy)
    assert counting.runs == [5, 5, 2]
    assert len(found.layers()) == 2


def test_closed_forms_of_activations() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        model[0].bias.zero_()
    x = torch.tensor([[[[1.0, -2.0], [0.0, 3.0]]], [[[-1.0, -1.0], [-4.0, 0.0]]]])
    found = collect_units(model, [(x, torch.tensor([2, 0]))], EVERY[:8])
    sums = {kind: of["1"].tolist() for kind, of in found.sums.items()}
    assert sums["mean"] == [1.0, 2.0]  # (1 + 3) / 4 + 0; 2 / 4 + 6 / 4
    assert sums["energy"] == pytest.approx([2.5, 5.5])
    assert sums["maximum"] == [3.0, 4.0]
    assert sums["minimum"] == [0.0, 0.0]
    assert sums["zeros"] == [1.5, 1.0]
    assert sums["class sums of 3"] == [[0.0, 1.5, 1.0], [0.0, 0.0, 0.0], [1.0, 0.5, 1.0]]
    assert sums["extremes"] == [[1.0, 1.5], [0.0, 1.0], [0.0, 0.5], [1.0, 0.0]]
    assert sums["second moments"] == [[2.5, 0.0], [0.0, 5.5]]


def test_003_01_first_order_terms_are_those_of_scaling_a_unit() -> None:
    """dL/d(eps) of scaling unit j by (1 - eps) equals the sum over examples and places of -a g (finite difference)."""
    model, x, y = examples("conv")
    model = model.double().eval()
    found = collect_units(model, cut(x.double(), y, [5, 7]), [FirstOrder()], F.cross_entropy)
    terms = found.sums[FirstOrder().kind]["2"] / len(x)

    def loss(unit: int, factor: float) -> float:
        scale = torch.ones(1, 4, 1, 1, dtype=torch.float64)
        scale[0, unit] = factor
        hook = model[2].register_forward_hook(lambda _, __, out: out * scale)
        try:
            with torch.no_grad():
                return float(F.cross_entropy(model(x.double()), y))
        finally:
            hook.remove()

    for unit in range(4):
        slope = (loss(unit, 1 - 1e-5) - loss(unit, 1 + 1e-5)) / 2e-5
        assert terms[unit] == pytest.approx(slope, abs=1e-7)


def test_003_01_the_examples_of_the_original() -> None:
    """a = [[-1, 0, 1], [1, 0, 1]] with gradient 1 everywhere: rs [0, 0, -1], absolute [1, 0, 1]; zero channel 0."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Identity(), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
        model[2].weight.fill_(1.0)
    x = torch.tensor([[-1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    kinds = (FirstOrder(), AbsoluteFirstOrder(), ActivationMean(), MeanGradient())
    found = collect_units(model, [x], kinds, lambda out, _: out.mean())
    site = next(iter(found.sites))
    rs, absolute, mean, gradient = ((found.sums[kind.kind][site] / 2) for kind in kinds)
    assert rs.tolist() == [0.0, 0.0, -1.0]
    assert absolute.tolist() == [1.0, 0.0, 1.0]
    assert (rs + mean * gradient).tolist() == [0.0, 0.0, 0.0], "a channel of ones has mrs 0"


def test_003_01_replacement_by_the_mean_does_not_depend_on_batches_and_is_0_for_constants() -> None:
    model, x, y = examples("conv")
    with torch.no_grad():
        model[1].weight[2], model[1].bias[2] = 0.0, 2.0  # unit 2 is always 2
    results = []
    for sizes in ([12], [1, 4, 7]):
        first = collect_units(model, cut(x, y, sizes), [ActivationMean()])
        means = {name: sums / first.samples for name, sums in first.sums["mean"].items()}
        kind = AbsoluteMeanReplacement(means)
        results.append(collect_units(model, cut(x, y, sizes), [kind], F.cross_entropy).sums[kind.kind]["2"])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-7)
    assert results[0][2] == 0
    assert (results[0][[0, 1, 3]] > 0).all()


def test_what_writes_over_an_activation_does_not_change_what_was_seen() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act, self.b = nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.act(self.a(x))
            y = self.b(h.clone())
            h.add_(100.0)
            return y + 0 * h.sum(1, keepdim=True)

    class Plain(InPlace):
        def forward(self, x: Tensor) -> Tensor:
            h = self.act(self.a(x))
            return self.b(h) + 0 * h.sum(1, keepdim=True)

    torch.manual_seed(0)
    model, plain = InPlace(), Plain()
    plain.load_state_dict(model.state_dict())
    data = [(torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 1, 0]))]
    kinds = [ActivationMean(), FirstOrder()]
    same(collect_units(plain, data, kinds, F.cross_entropy), collect_units(model, data, kinds, F.cross_entropy))


def test_what_the_loss_does_not_depend_on_has_gradient_0() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.relu, self.b = nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)
            self.unused, self.relu2, self.end = nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.b(self.relu(self.a(x))), self.end(self.relu2(self.unused(x)))

    data = [(torch.ones(2, 2), torch.tensor([0, 1]))]
    found = collect_units(Branch(), data, [FirstOrder()], lambda out, y: F.cross_entropy(out[0], y))
    assert found.sums[FirstOrder().kind]["relu2"].tolist() == [0.0] * 4


def test_7_23_a_pass_leaves_no_trace() -> None:
    model, x, y = examples("conv")
    model.train()
    model[0].weight.requires_grad_(False)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    state = torch.get_rng_state()
    collect_units(model, [(x, y)], EVERY, F.cross_entropy)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert model.training
    assert not model[0].weight.requires_grad
    assert all(one.grad is None for one in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_hooks_of_others_do_not_see_the_tracing() -> None:
    model, x, _ = examples("conv")
    shapes: list[torch.Size] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    collect_units(model, [x[:5], x[5:]], [ActivationMean()])
    handle.remove()
    assert shapes == [x[:5].shape, x[5:].shape]


@pytest.mark.parametrize("batch", [1, 6, 4])
def test_the_axis_of_examples_is_found_where_lengths_do_not_tell(batch: int) -> None:
    """Six time steps, time first, in batches of six: both axes are as long."""
    model, x, y = examples("recurrent")
    other = collect_units(model, [(x[:5], y[:5]), (x[5:], y[5:])], [ActivationMean(), Extremes()])
    sizes = [batch] * (12 // batch)
    same(other, collect_units(model, cut(x, y, sizes), [ActivationMean(), Extremes()]))


def test_units_and_parameters_are_collected_one_after_the_other() -> None:
    model, x, y = examples("conv")
    assert isinstance(sw.collect(model, [(x, y)], [ActivationMean()]), UnitStatistics)
    assert isinstance(sw.collect(model, [(x, y)], [sw.Gradient()], F.cross_entropy), sw.Statistics)
    with pytest.raises(sw.SparsewoodError, match="passes of their own"):
        sw.collect(model, [(x, y)], [ActivationMean(), sw.Gradient()], F.cross_entropy)


@pytest.mark.parametrize(
    ("statistics", "data", "message"),
    [
        ([], [torch.ones(2, 2, 7, 7)], "statistics must be a list"),
        ([ActivationMean()], [], "data is empty"),
        ([FirstOrder()], [torch.ones(2, 2, 7, 7)], "Gradients need a loss"),
        ([ClassSums(3)], [torch.ones(2, 2, 7, 7)], "need a class for each of the 2 examples"),
        ([ClassSums(2)], [(torch.ones(2, 2, 7, 7), torch.tensor([0, 5]))], "counted from 0 to 1. Got 0 to 5"),
    ],
)
def test_what_cannot_be_collected_is_refused(statistics: list[UnitStatistic], data: list[object], message: str) -> None:
    with pytest.raises(sw.SparsewoodError, match=message):
        collect_units(convnet(), data, statistics)


class Windows(nn.Module):
    """Tokens in windows that are folded into the batch: behind each example's other ones, or across examples."""

    def __init__(self, *, across: bool) -> None:
        super().__init__()
        self.across, self.up, self.act, self.down = across, nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unflatten(1, (2, -1))  # [examples, windows, tokens, 3]
        folded = (windows.transpose(0, 1) if self.across else windows).flatten(0, 1)
        y = self.down(self.act(self.up(folded))).mean(1)
        return y.unflatten(0, (2, -1)).mean(0) if self.across else y.unflatten(0, (-1, 2)).mean(1)


def test_windows_that_are_folded_into_the_batch_belong_to_their_examples() -> None:
    torch.manual_seed(0)
    model, x = Windows(across=False), torch.randn(5, 8, 3)
    found = collect_units(model, [x[:3], x[3:]], [ActivationMean(), Extremes()])
    values = torch.relu(model.up(x)).mean(1).detach().double()
    torch.testing.assert_close(found.sums["mean"]["act"], values.sum(0), rtol=1e-5, atol=1e-6)
    assert torch.equal(found.sums["extremes"]["act"][1].long(), values.argmax(0))


def test_windows_of_which_it_is_not_clear_whose_they_are_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = Windows(across=True)
    with pytest.raises(sw.SparsewoodError, match=r"every layer was left out\. act: the examples are not one after"):
        collect_units(model, [torch.randn(5, 8, 3)], [ActivationMean()])
    assert "act is left out" in caplog.text


def test_a_branch_that_not_every_batch_takes_is_left_out() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.relu, self.head = nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)
            self.other, self.relu2 = nn.Linear(3, 3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            h = self.relu(self.a(x))
            return self.head(self.relu2(self.other(h)) if len(x) > 2 else h)

    torch.manual_seed(0)
    x = torch.randn(5, 2)
    structure = sw.trace(Branch(), x)
    found = collect_units(Branch(), [x[:3], x[3:]], [ActivationMean()], structure=structure)
    assert found.samples == 5
    assert "a batch did not go through it" in found.skipped["relu2"]
    assert list(found.sums["mean"]) == ["relu"]


def test_scores_that_are_nan_do_not_hide_a_group() -> None:
    model = convnet()
    found = collect_units(model, [torch.ones(2, 2, 7, 7)], [ActivationMean()])
    broken = {name: one * torch.nan for name, one in found.sums["mean"].items()}
    assert found.of_groups(broken).keys() == found.of_groups(found.sums["mean"]).keys()


def test_what_shows_no_unit_at_all_is_refused() -> None:
    """Labels of tokens, cut from their sequences: there are more of them than examples of any layer."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(sw.SparsewoodError, match=r"every layer was left out. 1: none of its axes, \(3, 5, 4\)"):
        collect_units(model, [(torch.randn(3, 5, 3), torch.zeros(15))], [ActivationMean()])
