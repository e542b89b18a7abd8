"""Weights that are used more than once, and masks of attention, in 8 bits (001-11)."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.exporting import Dynamic, Static
from sparsewood.quantization import affine_of, quantize

BOTH = [Static(), Dynamic()]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Twice(nn.Module):
    """A linear layer that runs twice."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.layer(2 * x)


@pytest.mark.parametrize(("outputs", "activations"), [(6, Static()), (4, Dynamic()), (6, Dynamic())], ids=repr)
def test_a_layer_that_runs_twice(outputs: int, activations: Static | Dynamic) -> None:
    model, x = Twice(outputs), random(16, 4)
    small = sw.quantize_int8(model, [x], activations=activations)
    weight = model.layer.weight.detach()
    assert [row.name for row in small.layers] == ["layer.weight"]
    assert torch.equal(small.integers["layer.weight"], quantize(weight, affine_of(weight, symmetric=True, axis=0)))
    assert small.agreement(model, [x]).relative < 0.03
    integers = [one for one in small.model.graph.initializer if list(one.dims) in ([outputs, 4], [4, outputs])]
    assert len(integers) == 1  # one constant for both


class Words(nn.Module):
    """A classifier, of two axes, that has the weight of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids).mean(1))


@pytest.mark.parametrize("activations", BOTH, ids=repr)
@pytest.mark.parametrize("include", [None, [nn.Embedding]])
def test_a_weight_that_is_looked_up_and_multiplied(activations: Static | Dynamic, include: list[type] | None) -> None:
    model, ids = Words(), torch.arange(24).reshape(4, 6) % 20
    small = sw.quantize_int8(model, [ids], activations=activations, include=include)
    assert [row.quantized for row in small.layers] == [include is not None, True]
    assert small.agreement(model, [ids]).relative < 0.03


def test_a_weight_of_two_kinds_of_convolutions() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.down, self.up = nn.Conv2d(4, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 3, padding=1)
            self.up.weight = self.down.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.up(self.down(x).relu())

    model, x = Both(), random(4, 4, 6, 6)
    small = sw.quantize_int8(model, [x])
    assert [row.axis for row in small.layers] == [0, 1]
    assert small.agreement(model, [x]).relative < 0.03


class Masked(nn.Module):
    """Attention in which scores get a mask: a buffer or computed, of -inf or of the least number there is."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.query, self.value = kind, nn.Linear(16, 16), nn.Linear(16, 16)
        self.register_buffer("mask", torch.full((5, 5), -torch.inf).triu(1))

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        scores = self.query(x) @ x.transpose(1, 2)
        if self.kind == "buffer":
            scores = scores + self.mask
        elif self.kind == "fill":
            scores = scores.masked_fill(~keep[:, None, :], -torch.inf)
        else:
            least = -torch.inf if self.kind == "computed" else torch.finfo(torch.float32).min
            scores = scores + torch.where(keep[:, None, :], 0.0, least).expand(-1, 5, -1)
        return scores.softmax(-1) @ self.value(x)


@pytest.mark.parametrize(
    ("kind", "activations"),
    [("buffer", Static()), ("fill", Static()), ("computed", Static()), ("least", Static()), ("buffer", Dynamic())],
    ids=repr,
)
def test_masks_of_attention(kind: str, activations: Static | Dynamic) -> None:
    model, x = Masked(kind), 0.3 * random(6, 5, 16)
    keep = torch.arange(5).expand(6, 5) < 4
    small = sw.quantize_int8(model, [((x, keep), None)], activations=activations)
    assert {row.name for row in small.layers if row.quantized} == {"query.weight", "value.weight"}
    assert small.agreement(model, [((x, keep), None)]).relative < 0.03


def test_constants_that_are_joined_stay_float32() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.row = nn.Linear(4, 4), nn.Parameter(torch.tensor([[1000.0, 0.1, 0.2, 0.3]]))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.row, self.layer(x)])

    small = sw.quantize_int8(Joined(), [random(8, 4)], dynamic_batch=False)
    assert small.layer("Joined").scheme == "float32"
    assert "row_quantized" not in {one.name for one in small.model.graph.initializer}


def test_the_file_has_no_constants_that_nothing_reads(tmp_path: Path) -> None:
    small = sw.quantize_int8(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), [random(8, 4)])
    small.save(tmp_path / "small.onnx")
    graph = onnx.load(tmp_path / "small.onnx").graph
    read = {name for node in graph.node for name in node.input}
    assert {one.name for one in graph.initializer} <= read


def test_rounding_of_float32_in_folding_is_no_obstacle() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).eval()
    layer, norm = model[0], model[1]
    assert isinstance(layer, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    layer.bias.data += 3e3
    norm.running_mean += 3e3
    small = sw.quantize_int8(model, [random(64, 8)])
    assert small.folded == {"1": "0"}
    assert small.agreement(model, [random(64, 8)]).relative < 0.03
