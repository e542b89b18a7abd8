"""Sparse layers compute what the dense ones do, in all shapes, and their state comes back."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.exporting import kernels
from sparsewood.exporting.kernels import SemiStructuredLinear, SparseConv2d, SparseLinear, conv_padding


def thinned(layer: Any, density: float = 0.2, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    layer.weight.data *= torch.rand(layer.weight.shape, generator=generator) < density
    return layer


def seeded(seed: int = 0) -> torch.Generator:
    return torch.default_generator.manual_seed(seed)


@pytest.mark.parametrize("shape", [(1, 32), (5, 32), (2, 3, 32), (32,), (0, 32), (1, 1, 32)])
@pytest.mark.parametrize("block", [None, 4, 16])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape: tuple[int, ...], block: int | None, bias: bool) -> None:
    seeded()
    layer, x = thinned(nn.Linear(32, 16, bias=bias)), torch.randn(shape)
    sparse = SparseLinear(layer, block)
    with torch.no_grad():
        expected, found = layer(x), sparse(x)
    assert found.shape == expected.shape
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected)
    assert torch.equal(sparse.weight, layer.weight)


CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 3, "padding": "valid"},
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 1, "stride": 2, "padding": 1},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2), "dilation": (2, 1)},
]


@pytest.mark.parametrize("settings", CONVOLUTIONS)
@pytest.mark.parametrize("shape", [(1, 8, 9, 9), (3, 8, 9, 11), (8, 9, 9)])
def test_convolutions(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    seeded()
    layer, x = thinned(nn.Conv2d(8, 16, **settings)), torch.randn(shape)
    for one in (x, x.to(memory_format=torch.channels_last)) if x.dim() == 4 else (x,):
        with torch.no_grad():
            expected = layer(one)
            for block in (None, 4):
                torch.testing.assert_close(SparseConv2d(layer, block)(one), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(SparseConv2d(layer).weight, layer.weight)


@pytest.mark.parametrize("settings", [{"groups": 2}, {"padding": 1, "padding_mode": "reflect"}])
def test_convolutions_that_have_no_such_form(settings: dict[str, Any]) -> None:
    with pytest.raises(SparsewoodError, match="takes one group, padded with as many zeros"):
        SparseConv2d(nn.Conv2d(2, 2, 3, **settings))
    assert conv_padding(nn.Conv2d(2, 2, 2, padding="same")) is None


def test_only_what_is_not_zero_is_stored() -> None:
    layer = nn.Linear(8, 4)
    layer.weight.data.zero_()
    layer.weight.data[1, 2] = 3.0
    sparse = SparseLinear(layer)
    assert {name: tensor.tolist() for name, tensor in sparse.state_dict().items() if name != "bias"} == {
        "crow": [0, 0, 1, 1, 1],
        "column": [2],
        "values": [3.0],
    }
    layer.weight.data.zero_()
    with torch.no_grad():
        assert torch.equal(SparseLinear(layer)(torch.randn(3, 8)), layer.bias.expand(3, 4))


def test_states_come_back_also_with_other_zeros() -> None:
    seeded()
    layer, x = thinned(nn.Linear(32, 16)), torch.randn(3, 32)
    file = io.BytesIO()
    torch.save(SparseLinear(layer).state_dict(), file)
    file.seek(0)
    other = SparseLinear(thinned(nn.Linear(32, 16), 0.7, seed=1))
    with torch.no_grad():
        other(x)  # has its matrix by now
        other.load_state_dict(torch.load(file, weights_only=True))
        torch.testing.assert_close(other(x), layer(x))


@pytest.mark.parametrize(("rows", "block", "name"), [(16, None, "crow"), (32, 4, "values")])
def test_states_of_other_layers_do_not_fit(rows: int, block: int | None, name: str) -> None:
    """Fewer outputs, or blocks in place of numbers, are no other zeros."""
    other = SparseLinear(thinned(nn.Linear(32, rows, bias=False)), block)
    with pytest.raises(RuntimeError, match=f"size mismatch for {name}"):
        SparseLinear(thinned(nn.Linear(32, 32, bias=False))).load_state_dict(other.state_dict())


def test_copies_and_other_dtypes_have_memory_of_their_own() -> None:
    seeded()
    layer, x = thinned(nn.Linear(32, 16)), torch.randn(3, 32)
    sparse = SparseLinear(layer)
    with torch.no_grad():
        before = sparse(x)
        copied = copy.deepcopy(sparse)
        copied.values.zero_()
        assert torch.equal(copied(x), layer.bias.expand(3, 16))
        assert torch.equal(sparse(x), before)
        wide = copy.deepcopy(sparse).double()
        torch.testing.assert_close(wide(x.double()), layer.double()(x.double()))


def test_they_are_for_inference() -> None:
    sparse = SparseLinear(thinned(nn.Linear(8, 4)))
    with pytest.raises(SparsewoodError, match=r"no backward pass.*torch.no_grad\(\)"):
        sparse(torch.randn(2, 8, requires_grad=True))
    assert not list(sparse.parameters())


def test_states_of_two_of_four_are_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the compressed weight; on a device that has it see test_sparse.py."""
    made: list[Tensor] = []

    def stand_in(weight: Tensor) -> nn.Parameter:
        made.append(weight)
        return nn.Parameter(weight.detach().clone(), requires_grad=False)

    monkeypatch.setattr(kernels, "_two_of_four", stand_in)
    layer = nn.Linear(8, 4)
    sparse = SemiStructuredLinear(layer)
    state = sparse.state_dict()
    assert torch.equal(state["weight"], layer.weight)
    assert torch.equal(state["bias"], layer.bias)
    again = SemiStructuredLinear(nn.Linear(8, 4))
    again.load_state_dict(state)
    assert torch.equal(again.weight, layer.weight)
    assert torch.equal(again.bias, layer.bias)
    assert len(made) == 3
    with pytest.raises(RuntimeError, match=r"Missing key.*weight"):
        again.load_state_dict({"bias": layer.bias})
