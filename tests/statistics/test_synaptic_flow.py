"""The network of absolute weights: gates, clamps, softmax, tensors that models make, and how much data is read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.criteria import SynFlow, WeightTimesGradient
from sparsewood.errors import SparsewoodError
from sparsewood.statistics import Gradient, HessianGradient, SynapticFlow, collect
from sparsewood.statistics.synaptic_flow import Precision


class Between(nn.Module):
    """Three linear layers with a function after each of the first two."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.function(self.second(self.function(self.first(x)))))


def layer_sums(model: nn.Module, x: Tensor | None = None, precision: Precision = "float64") -> list[float]:
    x = torch.ones(2, 4) if x is None else x
    return [float(one.sum()) for one in sw.score(model, SynFlow(precision), data=[x]).values()]


LINEAR: list[Callable[[Tensor], Tensor]] = [
    lambda x: x * torch.sigmoid(x),
    lambda x: x.sigmoid().mul(x),
    lambda x: x * torch.sigmoid(1.702 * x),
    lambda x: x * torch.tanh(F.softplus(x)),
    lambda x: F.glu(torch.cat([x, x], -1)),
    lambda x: x * x.softmax(-1),
    lambda x: x.clone().clamp_(0, 0.01),
    lambda x: x.clamp(0, 0.01),
    lambda x: torch.clamp(input=x, min=0, max=0.01, out=None),
    lambda x: x.clip(max=0.01),
    lambda x: x.clamp_max(0.01),
    lambda x: torch.clamp_max(x, 0.01),
    lambda x: F.hardtanh(x, 0, 0.01),
    lambda x: F.elu(x.clone(), inplace=True),
    lambda x: x / (x * 0).clamp_min(1.0),
    lambda x: x / (x * 0).clamp(1.0, 9.0),
]


@pytest.mark.parametrize("function", LINEAR, ids=range(len(LINEAR)))
def test_004_51_activations_and_gates_written_by_hand_let_all_through(function: Callable[[Tensor], Tensor]) -> None:
    """As with ReLU: R = 1' |W3| |W2| |W1| 1, which each layer's scores sum to."""
    expected = layer_sums(Between(F.relu))
    assert layer_sums(Between(function)) == pytest.approx(expected, rel=1e-12)


HALVED: list[Callable[[Tensor], Tensor]] = [
    lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * x**3))),
    lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    lambda x: x * F.relu6(x + 3) / 2,
]


@pytest.mark.parametrize("function", HALVED, ids=range(len(HALVED)))
def test_gates_with_numbers_count_as_1_and_the_numbers_beside_them_stay(function: Callable[[Tensor], Tensor]) -> None:
    expected = [one / 4 for one in layer_sums(Between(F.relu))]
    assert layer_sums(Between(function)) == pytest.approx(expected, rel=1e-12)


class Squeezed(nn.Module):
    """A gate of its own weights, and a factor that is learned."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.squeeze, self.last = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)
        self.factor = nn.Parameter(torch.rand(4) - 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True))).expand_as(x)
        return self.last(torch.tanh(x.mean((2, 3))) * self.factor)


def test_a_squeezing_gate_is_open_and_has_no_flow_and_learned_factors_are_weights(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Squeezed()
    conv, squeeze, last = layer_sums(model, torch.ones(1, 2, 5, 5))
    weights = model.conv.weight.detach().double().abs().sum((1, 2, 3)), model.factor.detach().double().abs()
    expected = float((model.last.weight.detach().double().abs() @ (weights[0] * weights[1])).sum())
    assert (conv, last) == pytest.approx((expected, expected), rel=1e-12)
    assert squeeze == 0
    assert not caplog.records
    model.squeeze.weight.data.zero_()
    found = sw.recipes.find_collapse(model, {}, torch.ones(1, 2, 5, 5))
    assert (found.blocked, found.connected) == ((), True)
    assert list(found.flow) == ["conv.weight", "last.weight"]
    assert found.kept["squeeze.weight"] == 16


class Cell(nn.Module):
    """A long short-term memory by hand, in float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.within, self.last = nn.Linear(4, 12), nn.Linear(3, 12), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        state, memory = torch.zeros(len(x), 3), torch.zeros(len(x), 3, dtype=torch.float32)
        for _ in range(2):
            keep, let, new, out = (self.into(x.float()) + self.within(state)).chunk(4, -1)
            memory = keep.sigmoid() * memory + let.sigmoid() * new.tanh()
            state = out.sigmoid() * memory.tanh()
        return self.last(state)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_networks_that_make_tensors_of_their_own(precision: Precision) -> None:
    """[7.23] Gates are open: memory_2 = 2 |A| 1 + |B| |A| 1 with A and B the rows of what is new."""
    model = Cell()
    into, within, last = (
        p.detach().double().abs() for p in (model.into.weight, model.within.weight, model.last.weight)
    )
    first = into[6:9].sum(1)
    expected = float((last @ (2 * first + within[6:9] @ first)).sum())
    before = torch.get_default_dtype()
    sums = layer_sums(model, precision=precision)
    assert (sums[0], sums[2]) == pytest.approx((expected, expected), rel=1e-5)
    assert sums[1] == pytest.approx(float((last @ within[6:9] @ first).sum()), rel=1e-5)
    assert torch.get_default_dtype() is before
    assert sw.recipes.find_collapse(model, {}, torch.ones(1, 4), precision=precision).connected
    masks = sw.recipes.synflow(model, torch.ones(1, 4), 0.5, iterations=3, precision=precision)
    assert masks.sparsity == pytest.approx(0.5, abs=0.02)


def test_layers_through_which_more_flows_than_r_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """Products of activations that are no gates: R is of degree 4 in the first layer, 2 in the second."""
    model = Between(lambda x: x * F.relu(x))
    total = layer_sums(model)[2]
    assert layer_sums(model) == pytest.approx([4 * total, 2 * total, total], rel=1e-12)
    caplog.clear()
    sw.prune(model, SynFlow(), 0.5, data=[torch.ones(1, 4)], iterations=5, protect_classifier=False)
    assert len(caplog.records) == 1
    assert "More flows through first.weight, second.weight than through the network, up to 4 times" in caplog.text


@pytest.mark.parametrize("end", [lambda x: F.softmax(x, -1), lambda x: {"probabilities": torch.softmax(x, 1)}])
def test_a_softmax_at_the_end_is_left_out(end: Callable[[Tensor], object]) -> None:
    class Ended(Between):
        def forward(self, x: Tensor) -> Tensor:
            return end(super().forward(x))  # pyright: ignore[reportReturnType]

    assert layer_sums(Ended(F.relu)) == pytest.approx(layer_sums(Between(F.relu)), rel=1e-12)
    assert sw.recipes.find_collapse(Ended(F.relu), {}, torch.ones(1, 4)).connected


def test_weights_of_attention_that_are_returned_too_add_a_constant() -> None:
    class Attention(nn.Module):
        def __init__(self, *, returned: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.query, self.value, self.returned = nn.Linear(4, 4), nn.Linear(4, 4), returned

        def forward(self, x: Tensor) -> object:
            weights = (self.query(x) @ x.transpose(-1, -2)).softmax(-1)
            return (weights @ self.value(x), weights) if self.returned else weights @ self.value(x)

    x = torch.ones(1, 3, 4)
    (query, value), alone = (layer_sums(Attention(returned=one), x) for one in (True, False))
    assert (query, value) == pytest.approx(tuple(alone), rel=1e-12, abs=1e-12)
    assert value > 1


def test_outputs_that_sum_to_a_constant_are_said() -> None:
    class Scaled(Between):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).softmax(-1) * 2

    with pytest.raises(sw.SparsewoodError, match=r"outputs of Scaled sum to a constant.*without its softmax"):
        layer_sums(Scaled(F.relu))
    with pytest.raises(sw.SparsewoodError, match="sum to a constant"):
        sw.recipes.find_collapse(Scaled(F.relu), {}, torch.ones(1, 4))


class Shifted(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - 127.5) / 127.5)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.gru, self.last = nn.Linear(4, 32), nn.GRU(32, 32, batch_first=True), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gru(F.relu(self.first(x)).expand(10, -1).unsqueeze(0))[0][:, -1])


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.Tanh()], ids=repr)
def test_what_is_subtracted_is_said_and_does_not_turn_the_order_round(activation: nn.Module) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), activation, nn.Linear(6, 3)]
    assert min(layer_sums(nn.Sequential(*layers))) > 0
    with pytest.raises(SparsewoodError, match="Something is subtracted in the forward"):
        sw.score(Shifted(*layers), SynFlow(), data=[torch.ones(2, 4)])


def test_negative_flow_through_a_fused_recurrent_layer_is_said() -> None:
    torch.manual_seed(0)
    with pytest.raises(SparsewoodError, match="less than nothing flows through Recurrent"):
        sw.score(Recurrent(), SynFlow(), data=[torch.ones(1, 4)])


def test_a_network_that_masks_cut_off_has_no_flow() -> None:
    model = Between(F.relu)
    nn.init.zeros_(model.second.weight)
    assert layer_sums(model) == [0, 0, 0]


def test_of_all_data_one_batch_is_read() -> None:
    def endless() -> Iterator[Tensor]:
        yield torch.ones(2, 4)
        raise AssertionError("a second batch was read")

    model = Between(F.relu)
    found = collect(model, endless(), [SynapticFlow()])
    assert found.samples == 2
    torch.testing.assert_close(collect(model, itertools.repeat(torch.rand(2, 4)), [SynapticFlow()]).sums, found.sums)
    given = {"iterations": 3, "protect_classifier": False}
    masks = sw.prune(model, SynFlow(), 0.5, data=endless(), **given)
    assert masks == sw.recipes.synflow(model, torch.ones(1, 4), 0.5, iterations=3)
    with pytest.raises(sw.SparsewoodError, match="data must be batches"):
        sw.prune(model, SynFlow(), 0.5, data=torch.ones(2, 4), **given)


def test_beside_other_statistics_all_batches_are_read() -> None:
    model, data = Between(F.relu), [(torch.rand(3, 4), torch.tensor([0, 1, 2])) for _ in range(3)]
    apart = [collect(model, data, [one], F.cross_entropy) for one in (Gradient(), HessianGradient())]
    found = collect(model, iter(data), [SynapticFlow(), Gradient(), HessianGradient()], F.cross_entropy)
    assert found.samples == 9
    for one in apart:
        for kind, sums in one.sums.items():
            torch.testing.assert_close(found.sums[kind], sums)
    flow, gradient = sw.score(model, [SynFlow(), WeightTimesGradient()], data=iter(data), loss=F.cross_entropy)
    torch.testing.assert_close(flow, sw.score(model, SynFlow(), data=data[:1]))
    torch.testing.assert_close(gradient, sw.score(model, WeightTimesGradient(), data=data, loss=F.cross_entropy))
    assert collect(model, data, []).samples == 9
