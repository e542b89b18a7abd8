"""Least-squares reconstruction (000/28 ThiNet, 004-41: the residual is at most that of the weights as they were)."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.recovery import reconstruct


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(before)


def cut(dense: nn.Module, first: str, second: str, kept: list[int]) -> tuple[nn.Module, dict[str, dict[int, Tensor]]]:
    """The network without outputs of `first` and what `second` reads of them, and what stayed."""
    small, places = copy.deepcopy(dense), torch.tensor(kept)
    a, b = small.get_submodule(first), small.get_submodule(second)
    plan = {f"{first}.weight": {0: places}, f"{second}.weight": {1: places}}
    a.weight = nn.Parameter(a.weight.detach()[places])
    if a.bias is not None:
        a.bias = nn.Parameter(a.bias.detach()[places])
        plan[f"{first}.bias"] = {0: places}
    b.weight = nn.Parameter(b.weight.detach()[:, places])
    for layer, name in ((a, "out"), (b, "in")):
        for attribute in (f"{name}_features", f"{name}_channels"):
            if hasattr(layer, attribute):
                setattr(layer, attribute, len(kept))
    return small, plan


@pytest.mark.parametrize("bias", [True, False])
def test_linear_combinations_of_kept_units_are_recovered(bias: bool) -> None:
    """000/28: unit 2 is 3 times unit 0 less unit 1: the small layer computes the same with other weights."""
    dense = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=bias))
    with torch.no_grad():
        dense[0].weight[2] = 3 * dense[0].weight[0] - dense[0].weight[1]
    small, kept = cut(dense, "0", "1", [0, 1])
    data = [torch.randn(30, 4), torch.randn(5, 4)]
    told = reconstruct(small, dense, data, kept=kept, ridge=0.0)
    weight = dense[1].weight.detach()
    expected = weight[:, :2] + weight[:, 2:] * torch.tensor([3.0, -1.0])
    torch.testing.assert_close(small[1].weight.detach(), expected, rtol=0.0, atol=1e-9)
    assert list(told.layers) == ["1"]
    assert told.layers["1"].after < 1e-12 < told.layers["1"].before
    assert told.layers["1"].rows == 35
    x = torch.randn(7, 4)
    torch.testing.assert_close(small(x), dense(x), rtol=0.0, atol=1e-8)


CONVOLUTIONS = {
    "plain": (2, nn.Conv2d(4, 5, 3)),
    "padded, strided": (2, nn.Conv2d(4, 5, 3, padding=1, stride=2)),
    "dilated": (2, nn.Conv2d(4, 5, (3, 2), dilation=(2, 1), padding=(0, 1), bias=False)),
    "same": (2, nn.Conv2d(4, 5, (2, 3), padding="same")),
    "circular": (2, nn.Conv2d(4, 5, 3, padding=1, padding_mode="circular")),
    "1d": (1, nn.Conv1d(4, 5, 3, padding=1)),
    "3d": (3, nn.Conv3d(4, 5, 2)),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind: str) -> None:
    """Channel 3 is channel 1 once more; its weights move there, for every kind of window."""
    axes, second = CONVOLUTIONS[kind]
    first = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](2, 4, 1)
    dense = nn.Sequential(first, nn.Tanh(), copy.deepcopy(second).double())
    with torch.no_grad():
        dense[0].weight[3] = dense[0].weight[1]
        dense[0].bias[3] = dense[0].bias[1]
    small, kept = cut(dense, "0", "2", [0, 1, 2])
    data = [torch.randn(8, 2, *[7] * axes) for _ in range(2)]
    told = reconstruct(small, dense, data, kept=kept, samples=20, ridge=0.0)
    expected = dense[2].weight.detach()[:, :3].clone()
    expected[:, 1] += dense[2].weight.detach()[:, 3]
    torch.testing.assert_close(small[2].weight.detach(), expected, rtol=0.0, atol=1e-7)
    assert told.layers["2"].after < 1e-12
    assert told.layers["2"].rows == 16 * min(20, dense(data[0])[0, 0].numel())


def test_groups_are_solved_by_themselves() -> None:
    dense = nn.Sequential(nn.Conv2d(2, 6, 1), nn.Tanh(), nn.Conv2d(6, 4, 3, groups=2))
    with torch.no_grad():
        dense[0].weight[[2, 5]] = dense[0].weight[[0, 4]]
        dense[0].bias[[2, 5]] = dense[0].bias[[0, 4]]
    small = copy.deepcopy(dense)
    outputs, inside = torch.tensor([0, 1, 3, 4]), torch.tensor([0, 1])
    small[0].weight, small[0].bias = (nn.Parameter(p.detach()[outputs]) for p in (small[0].weight, small[0].bias))
    small[2].weight = nn.Parameter(small[2].weight.detach()[:, inside])
    small[0].out_channels = small[2].in_channels = 4
    kept = {"0.weight": {0: outputs}, "0.bias": {0: outputs}, "2.weight": {1: inside}}
    told = reconstruct(small, dense, [torch.randn(20, 2, 6, 6)], kept=kept, ridge=0.0)
    assert told.layers["2"].after < 1e-12
    x = torch.randn(3, 2, 6, 6)
    torch.testing.assert_close(small(x), dense(x), rtol=0.0, atol=1e-7)


def deep() -> tuple[nn.Module, nn.Module, dict[str, dict[int, Tensor]]]:
    dense = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(8 * 25, 4),
    )
    small, kept = cut(dense, "0", "3", [0, 2, 5, 6])
    norm = nn.BatchNorm2d(4)
    norm.load_state_dict(
        {
            name: value if value.dim() == 0 else value[kept["0.weight"][0]]
            for name, value in dense[1].state_dict().items()
        }
    )
    small[1] = norm
    outputs = torch.tensor([1, 2, 3, 4, 7])
    columns = (outputs[:, None] * 25 + torch.arange(25)).flatten()
    small[3].weight, small[3].bias = (nn.Parameter(p.detach()[outputs]) for p in (small[3].weight, small[3].bias))
    small[6].weight = nn.Parameter(small[6].weight.detach()[:, columns])
    kept["3.weight"][0] = outputs
    kept["3.bias"] = {0: outputs}
    kept["6.weight"] = {1: columns}
    return dense.eval(), small.eval(), kept


def squared_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().square().sum())


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 1.0, 1e6])
def test_the_residual_is_at_most_that_before(ridge: float) -> None:
    """004-41; layer after layer, and with few samples for many weights."""
    dense, small, kept = deep()
    x = torch.randn(6, 3, 5, 5)
    first_before = squared_error(small[:4](x), dense[:4](x)[:, kept["3.weight"][0]])
    told = reconstruct(small, dense, [x], kept=kept, ridge=ridge, samples=100)
    assert list(told.layers) == ["3", "6"]
    assert all(one.after <= one.before for one in told.layers.values())
    wanted = dense[:4](x)[:, kept["3.weight"][0]]
    variance = squared_error(wanted, wanted.mean((0, 2, 3), keepdim=True))
    first = told.layers["3"]
    assert first.before * variance == pytest.approx(first_before)
    assert first.after * variance == pytest.approx(squared_error(small[:4](x), wanted), abs=1e-9)
    last = dense(x)
    scale = squared_error(last, last.mean(0))
    assert told.layers["6"].after * scale == pytest.approx(squared_error(small(x), last), abs=1e-9)


def test_a_strong_ridge_changes_nothing() -> None:
    dense, small, kept = deep()
    before = [small[i].weight.detach().clone() for i in (3, 6)]
    reconstruct(small, dense, [torch.randn(6, 3, 5, 5)], kept=kept, ridge=1e12)
    for weight, i in zip(before, (3, 6), strict=True):
        torch.testing.assert_close(small[i].weight.detach(), weight, rtol=0.0, atol=1e-9)


def test_batches_and_draws() -> None:
    """How the data are cut does not matter, the generator does; model and reference are else left alone."""
    dense, small, kept = deep()
    x, target = torch.randn(9, 3, 5, 5), torch.zeros(9)
    small.train()
    found = []
    for seed, sizes in ((3, [9]), (3, [4, 1, 4]), (4, [9])):
        one = copy.deepcopy(small)
        data = list(zip(x.split(sizes), target.split(sizes), strict=True))
        generator = torch.Generator().manual_seed(seed)
        before = {name: value.clone() for name, value in dense.state_dict().items()}
        reconstruct(one, dense, data, kept=kept, samples=4, generator=generator)
        assert all(module.training for module in one.modules())
        assert not any(module._forward_hooks for net in (one, dense) for module in net.modules())
        assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
        assert torch.equal(one[1].running_mean, small[1].running_mean)
        found.append(one[3].weight.detach())
    torch.testing.assert_close(found[0], found[1], rtol=0.0, atol=1e-9)
    assert not torch.allclose(found[0], found[2])


def test_only_what_lost_inputs_is_refitted_unless_asked() -> None:
    dense, small, kept = deep()
    told = reconstruct(small, dense, [torch.randn(6, 3, 5, 5)], kept=kept, layers=["6"])
    assert list(told.layers) == ["6"]
    with pytest.raises(UnknownName, match="Unknown layer '7'"):
        reconstruct(small, dense, [torch.randn(6, 3, 5, 5)], kept=kept, layers=["7"])


def test_what_cannot_be_refitted_is_named() -> None:
    shared = nn.Linear(3, 3)
    twin = nn.Linear(3, 3)
    twin.weight = shared.weight
    dense = nn.Sequential(nn.Conv1d(2, 2, 1), nn.ConvTranspose1d(2, 3, 1), nn.Flatten(), shared, twin)
    told = reconstruct(copy.deepcopy(dense), dense, [torch.randn(4, 2, 1)], kept={}, layers=["0", "1", "3", "4"])
    assert list(told.layers) == ["0"]
    assert told.skipped["1"] == "layers of type ConvTranspose1d are not refitted"
    assert told.skipped["3"] == told.skipped["4"] == "it shares its parameters with another layer"


def test_attention_is_named() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x)[0]

    kept = {"attention.out_proj.weight": {1: torch.arange(4)}, "attention.in_proj_weight": {1: torch.arange(4)}}
    told = reconstruct(Network(), Network(), [torch.randn(2, 1, 4)], kept=kept)
    assert told.skipped == {
        "attention": "layers of type MultiheadAttention are not refitted",
        "attention.out_proj": "it is not called as a module",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples must be a whole number >= 1. Got 0"),
        ({"ridge": -1.0}, "ridge must be a number >= 0. Got -1.0"),
        ({"data": []}, "The data are empty"),
        ({"kept": {"3.weight": {1: torch.arange(4)}}}, "3 has 5 outputs in the small network, and 8 in the dense one"),
    ],
)
def test_errors(change: dict[str, object], message: str) -> None:
    dense, small, kept = deep()
    arguments = {"data": [torch.randn(6, 3, 5, 5)], "kept": kept} | change
    with pytest.raises(SparsewoodError, match=message):
        reconstruct(small, dense, arguments.pop("data"), **arguments)


def test_progress_names_each_layer_before_it_is_solved() -> None:
    dense = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    small, kept = cut(dense, "0", "2", [0, 2, 3])
    told: list[tuple[str, int, int]] = []
    reconstruct(
        small, dense, [torch.randn(9, 4)], kept=kept, layers=["4", "2"], progress=lambda *one: told.append(one)
    )  # fmt: skip
    assert told == [("2", 1, 2), ("4", 2, 2)]


def test_positions_that_the_reference_does_not_have() -> None:
    """A plan of two steps starts at the original; the network after the first step is too narrow for it."""
    dense = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    middle, _ = cut(dense, "0", "2", [0, 2, 3, 5])
    small, kept = cut(dense, "0", "2", [0, 5])
    before = copy.deepcopy(small.state_dict())
    with pytest.raises(SparsewoodError, match=r"position 5 along axis 0 of 0\.weight, .* \(4, 4\).*starts at the orig"):
        reconstruct(small, middle, [torch.randn(9, 4)], kept=kept)
    torch.testing.assert_close(dict(small.state_dict()), dict(before), rtol=0.0, atol=0.0)
    reconstruct(small, dense, [torch.randn(9, 4)], kept=kept)
