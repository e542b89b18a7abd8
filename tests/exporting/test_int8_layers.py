"""Kinds of layers in 8 bits (001-11, defect 15): integers where onnxruntime can, else a row with the reason."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood.exporting import Dynamic, Static

ACTIVATIONS = [Static(), Static(symmetric=True), Dynamic()]


class Convolutions(nn.Module):
    """BatchNorm, a depthwise convolution, a sum of two paths, a transposed convolution, a GroupNorm, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.deep, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.groups, self.up, self.head = nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(self.first(x)).relu()
        x = (x + self.norm2(self.deep(x))).relu()
        return self.head(self.up(self.groups(x)).mean((2, 3)))


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def images(count: int = 16) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("activations", ACTIVATIONS, ids=repr)
def test_convolutions(activations: Static | Dynamic) -> None:
    model = seeded(Convolutions)
    small = sw.quantize_int8(model, [images(8), images(16)[8:]], activations=activations)
    assert small.folded == {"norm1": "first", "norm2": "deep"}
    found = {row.name: row for row in small.layers}
    assert set(found) == {"first.weight", "deep.weight", "up.weight", "head.weight", "groups"}
    assert "normalisations" in found["groups"].reason
    assert found["head.weight"].quantized
    if isinstance(activations, Dynamic):
        for name in ("first.weight", "deep.weight", "up.weight"):
            assert not found[name].quantized
            assert "calibrated" in found[name].reason
    else:
        assert found["first.weight"].kernel == "QLinearConv"
        assert found["up.weight"].axis == 1
        assert found["up.weight"].kernel == "ConvTranspose in float32"
        assert found["first.weight"].bytes_after < found["first.weight"].bytes_before
    assert small.agreement(model, [images()]).relative < 0.05


def test_the_model_is_left_as_it_was() -> None:
    model = seeded(Convolutions).train()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    sw.quantize_int8(model, [images()])
    assert model.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_table_is_readable() -> None:
    text = str(sw.quantize_int8(seeded(Convolutions), [images()]))
    lines = text.splitlines()
    assert " ".join(lines[0].split()) == "layer operator weight values bytes before after runs as, or why not"
    assert any(line.split()[:5] == ["first.weight", "Conv", "int8", "per", "channel"] for line in lines)
    assert lines[-1].startswith("file")


@pytest.mark.parametrize("per_channel", [True, False])
def test_transposed_convolutions_in_groups(per_channel: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.ConvTranspose1d(4, 4, 3, groups=2))
    x = torch.randn(8, 2, 9, generator=torch.Generator().manual_seed(1))
    small = sw.quantize_int8(model, [x], per_channel=per_channel)
    assert small.layer("0.weight").kernel == "QLinearConv"
    assert small.layer("2.weight").quantized != per_channel
    if per_channel:
        assert "per_channel=False" in small.layer("2.weight").reason
    assert small.agreement(model, [x]).relative < 0.05


def test_gru_and_batchnorm_that_stays() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.gru, self.head = nn.BatchNorm1d(4), nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3)
            self.unused = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.gru(self.norm(x).transpose(1, 2))[0][:, -1])

    model, x = seeded(Mixed), torch.randn(8, 4, 5, generator=torch.Generator().manual_seed(1))
    small = sw.quantize_int8(model, [x])
    assert "no GRU of 8 bits" in small.layer("gru.weight_ih_l0").reason
    assert "BatchNorm stays" in small.layer("norm").reason
    assert "no step" in small.layer("unused").reason
    assert small.layer("head.weight").kernel == "QGemm"


@pytest.mark.slow
def test_a_shrunk_resnet() -> None:
    """001-11: about a quarter of the bytes of a network that is smaller already, all of its layers in integers."""
    from sparsewood.models.wheels import ensure_torchvision

    ensure_torchvision()
    from torchvision.models import resnet18

    torch.manual_seed(0)
    x = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    model = resnet18(num_classes=10).train()
    with torch.no_grad():
        model(x)
    model = sw.shrink(model.eval(), x[:1], sparsity=0.5).model
    small = sw.quantize_int8(model, [x])
    assert all(row.quantized for row in small.layers)
    assert {row.kernel for row in small.layers} == {"QLinearConv", "QGemm"}
    assert len(small.folded) == 20
    assert small.bytes < 0.27 * small.bytes_before
    assert small.agreement(model, [x]).relative < 0.05
