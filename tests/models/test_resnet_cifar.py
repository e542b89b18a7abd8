"""CIFAR ResNets against the paper's parameter counts and the shortcuts' definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.models.resnet_cifar import Block, ZeroPadded, resnet20, resnet_cifar


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


MILLIONS = [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7), (1202, 19.4)]


@pytest.mark.parametrize(("depth", "millions"), MILLIONS)
def test_parameter_counts_of_the_paper(depth: int, millions: float) -> None:
    with torch.device("meta"):
        model = resnet_cifar(depth)
    digits = 2 if millions < 1 else 1
    assert round(parameters(model) / 1e6, digits) == millions


def test_exact_parameter_counts() -> None:
    assert parameters(resnet20()) == 269_722
    # Two 1x1 convolutions, 16 -> 32 and 32 -> 64, and the scale and offset of their BatchNorms.
    assert parameters(resnet_cifar(20, shortcut="B")) == 269_722 + 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert parameters(resnet20(100)) == 269_722 + 90 * 65


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_depth_counts_convolutions_and_the_classifier(depth: int) -> None:
    layers = [m for m in resnet_cifar(depth).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_shapes_and_gradients(shortcut: str) -> None:
    model = resnet_cifar(8, classes=7, channels=1, shortcut=shortcut)
    out = model(torch.randn(2, 1, 32, 32))
    assert out.shape == (2, 7)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_other_resolutions() -> None:
    with torch.no_grad():
        assert resnet_cifar(8).eval()(torch.randn(1, 3, 33, 28)).shape == (1, 10)


def test_shortcut_a_subsamples_and_pads() -> None:
    x = torch.arange(1.0, 33).reshape(1, 2, 4, 4)
    out = ZeroPadded(2, 4)(x)
    assert out.shape == (1, 4, 2, 2)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert (out[:, [0, 3]] == 0).all()


def test_a_block_with_a_silent_branch_is_its_shortcut() -> None:
    block = Block(2, 4, 2, ZeroPadded(2, 4)).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 2, 4, 4)
    assert torch.equal(block(x), ZeroPadded(2, 4)(x))


def test_equal_seeds_equal_weights() -> None:
    torch.manual_seed(3)
    first = resnet_cifar(8).state_dict()
    torch.manual_seed(3)
    assert all(torch.equal(value, first[key]) for key, value in resnet_cifar(8).state_dict().items())


@pytest.mark.parametrize("depth", [2, 18, 21, 0, -4])
def test_impossible_depths(depth: int) -> None:
    with pytest.raises(SparsewoodError, match=rf"must be 6n \+ 2 .* Got {depth} instead"):
        resnet_cifar(depth)


def test_unknown_shortcut() -> None:
    with pytest.raises(SparsewoodError, match=r"must be 'A' or 'B'\. Got 'C'"):
        resnet_cifar(20, shortcut="C")
