"""Taps on real tensors: a hook where the tap says sees the activation that is computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.structure import Tap


def seen(model: nn.Module, x: Tensor, tap: Tap) -> Tensor:
    """What a hook sees at a tap."""
    module, calls, found = model.get_submodule(tap.module), [0], []

    def note(values: Any) -> None:
        if calls[0] == tap.call:
            found.append((values if isinstance(values, tuple) else (values,))[tap.index].clone())
        calls[0] += 1

    if tap.at == "input":
        handle = module.register_forward_pre_hook(lambda _, inputs: note(inputs))
    else:
        handle = module.register_forward_hook(lambda *args: note(args[2]))
    with handle, torch.no_grad():
        model(x)
    (values,) = found
    assert len(tap.owner) == values.shape[tap.axis]
    return values


def check(model: nn.Module, x: Tensor, producer: str, place: str, expected: Tensor) -> Tap:
    """The tap of `producer` is at `place`, such as `act.output`, and sees `expected`."""
    model.eval()
    groups = sw.trace(model, x).prunable
    (tap,) = [tap for group in groups for tap in group.taps if tap.producer == f"{producer}.weight" and tap.call == 0]
    assert f"{tap.module}.{tap.at}" == place
    torch.testing.assert_close(seen(model, x, tap), expected)
    return tap


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Mlp(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor], *, wide: int = 4) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(3, wide), act, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


def gelu_after(x: Tensor) -> Tensor:
    """Half of x is computed after the tanh."""
    gate = torch.tanh(0.8 * (x + 0.04 * x**3)) + 1
    return gate * (0.5 * x)


def chunked(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, -1)
    return F.silu(gate) * value


def shifted(x: Tensor) -> Tensor:
    y = F.relu(x)
    return y - 0.5 * y * y


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh gelu": lambda x: 0.5 * x * (1 + torch.tanh(0.79788 * (x + 0.044715 * torch.pow(x, 3)))),
    "tanh gelu, x last": gelu_after,
    "erf gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "mish": lambda x: x * torch.tanh(F.softplus(x)),
    "squared relu": lambda x: F.relu(x) ** 2,
    "squared relu, as a product": lambda x: F.relu(x) * F.relu(x),
    "several parts": shifted,
    "hard swish": lambda x: x * F.relu6(x + 3) / 6,
    "elu": lambda x: torch.where(x > 0, x, torch.exp(x) - 1),
    "relu": F.relu,
    "in place": lambda x: F.relu(x.clone(), inplace=True),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 3)])
def test_the_whole_activation_is_seen(name: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    module, functional = Mlp(Function(ACTIVATIONS[name])), Mlp(ACTIVATIONS[name])
    tap = check(module, x, "up", "act.output", ACTIVATIONS[name](module.up(x)))
    assert (tap.index, tap.call, tap.axis, tap.owner.tolist()) == (0, 0, len(shape) - 1, [0, 1, 2, 3])
    check(functional, x, "up", "down.input", ACTIVATIONS[name](functional.up(x)))


@pytest.mark.parametrize("act", [chunked, F.glu])
def test_gates_from_one_weight(act: Callable[[Tensor], Tensor]) -> None:
    model, x = Mlp(act, wide=8), torch.randn(5, 3)
    assert check(model, x, "up", "down.input", act(model.up(x))).owner.tolist() == [0, 1, 2, 3]
    model = Mlp(Function(act), wide=8)
    check(model, x, "up", "act.output", act(model.up(x)))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.act = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 3), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.gate(x)) * self.up(x))


def test_both_weights_of_a_gate_are_seen_behind_the_product() -> None:
    model, x = Gated(), torch.randn(5, 3)
    product = F.silu(model.gate(x)) * model.up(x)
    check(model, x, "gate", "down.input", product)
    check(model, x, "up", "down.input", product)


def test_an_activation_that_is_read_and_added_to_is_seen_alone() -> None:
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.a(x))
            return self.c(self.act(self.b(x)) + x)

    model, x = Shortcut(), torch.randn(5, 3)
    check(model, x, "a", "act.output", F.relu(model.a(x)))
    taps = sw.trace(model, x).prunable[0].taps
    (tap,) = [tap for tap in taps if tap.producer == "b.weight"]
    assert (tap.module, tap.call, tap.at) == ("act", 1, "output")
    torch.testing.assert_close(seen(model, x, tap), F.relu(model.b(F.relu(model.a(x)))))


# ---------------------------------------------------------------- images


IMAGE = torch.randn(2, 3, 8, 8)


def test_pooling_before_the_activation() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    tap = check(model, IMAGE, "0", "2.output", F.relu(F.max_pool2d(model[0](IMAGE), 2)))
    assert tap.axis == 1


def test_pooling_behind_a_functional_activation() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.bn(self.conv(x))).mean((2, 3)))

    model = Last().eval()
    check(model, IMAGE, "conv", "fc.input", F.relu(model.bn(model.conv(IMAGE))).mean((2, 3)))


class PreActivation(nn.Module):
    def __init__(self, *, functional: bool) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 4, 1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(4), nn.BatchNorm2d(5), nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)
        self.relu = F.relu if functional else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(self.relu(self.bn2(self.conv1(self.relu(self.bn1(x))))))
        return self.head(self.relu(self.bn3(x)))


@pytest.mark.parametrize("functional", [True, False])
def test_pre_activation(functional: bool) -> None:
    model = PreActivation(functional=functional).eval()
    stem = model.stem(IMAGE)
    first = F.relu(model.bn1(stem))
    second = F.relu(model.bn2(model.conv1(first)))
    third = F.relu(model.bn3(stem + model.conv2(second)))
    check(model, IMAGE, "stem", "conv1.input" if functional else "relu.output", first)
    taps = {tap.producer: tap for group in sw.trace(model, IMAGE).prunable for tap in group.taps}
    for name, value in {"stem": first, "conv1": second, "conv2": third}.items():
        torch.testing.assert_close(seen(model, IMAGE, taps[f"{name}.weight"]), value)


def test_a_linear_bottleneck_is_seen_as_it_is_read() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU6(inplace=True)),
        *(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4)),
        *(nn.Conv2d(4, 8, 1), nn.ReLU6(inplace=True), nn.Conv2d(8, 2, 1)),
    ).eval()
    check(model, IMAGE, "0", "2.output", model[:3](IMAGE))
    check(model, IMAGE, "3", "4.output", model[:5](IMAGE))
    check(model, IMAGE, "5", "6.output", model[:7](IMAGE))


class Squeeze(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.next = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)
        self.down, self.up = nn.Linear(4, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return self.next(x * gate[:, :, None, None])


def test_squeeze_and_excite() -> None:
    model = Squeeze()
    x = F.relu(model.conv(IMAGE))
    small = F.relu(model.down(x.mean((2, 3))))
    check(model, IMAGE, "conv", "act.output", x)
    check(model, IMAGE, "down", "up.input", small)
    check(model, IMAGE, "up", "next.input", x * torch.sigmoid(model.up(small))[:, :, None, None])


# ---------------------------------------------------------------- sequences


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.fc = layer, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("twice", [True, False])
def test_recurrent_layers(kind: Any, twice: bool) -> None:
    layer = kind(3, 4, batch_first=True, bidirectional=twice, num_layers=2 if twice else 1)
    model, x = Recurrent(layer, 8 if twice else 4), torch.randn(2, 5, 3)
    (group,) = sw.trace(model, x).prunable
    (tap,) = group.taps
    assert (tap.module, tap.at, tap.index, tap.axis) == ("layer", "output", 0, 2)
    assert tap.owner.tolist() == [0, 1, 2, 3] * (2 if twice else 1)
    torch.testing.assert_close(seen(model, x, tap), layer(x)[0].detach())


def test_recurrent_cells_have_a_tap_for_every_call() -> None:
    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.fc = nn.GRUCell(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            state = self.cell(x[:, 0])
            return self.fc(self.cell(x[:, 1], state))

    model, x = Cells(), torch.randn(2, 2, 3)
    taps = sw.trace(model, x).prunable[0].taps
    assert [(tap.module, tap.call, tap.at) for tap in taps] == [("cell", 0, "output"), ("cell", 1, "output")]
    state = model.cell(x[:, 0])
    torch.testing.assert_close(seen(model, x, taps[1]), model.cell(x[:, 1], state).detach())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (one(x).unflatten(-1, (-1, 4)).transpose(1, 2) for one in (self.q, self.k, self.v))
        attended = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        return self.out(attended.transpose(1, 2).flatten(2))


def test_attention_is_seen_at_queries_keys_and_values() -> None:
    model, x = Attention(), torch.randn(2, 5, 3)
    embedded = model.embed(x)
    for name in "qkv":
        tap = check(model, x, name, f"{name}.output", model.get_submodule(name)(embedded))
        assert tap.owner.tolist() == [0] * 4 + [1] * 4


def test_heads_without_a_module_boundary_have_no_tap() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    structure = sw.trace(nn.Sequential(nn.Linear(3, 8), layer, nn.Linear(8, 2)), torch.randn(2, 5, 3))
    assert structure.group("1.self_attn.in_proj_weight").taps == ()
    (tap,) = structure.group("1.linear1").taps
    assert (tap.module, tap.at) == ("1.dropout", "input")
