"""Networks that the tests of packing share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw


class Everything(nn.Module):
    """A tie, a buffer outside the state, BatchNorm, an LSTM, parameters of every kind and layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(8)
        self.embed = nn.Embedding(7, 5)
        self.rnn = nn.LSTM(5, 4, num_layers=2, bidirectional=True)
        self.out = nn.Linear(5, 7)
        self.out.weight = self.embed.weight
        self.turned = nn.Parameter(torch.zeros(4, 6).T)
        self.short = nn.Parameter(torch.zeros(3, 3, dtype=torch.float16))
        self.register_buffer("outside", torch.ones(2), persistent=False)
        self.register_buffer("flags", torch.zeros(9, dtype=torch.bool))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("scalar", torch.tensor(0.5, dtype=torch.bfloat16))
        self.register_buffer("phases", torch.zeros(5, dtype=torch.complex128))
        self.register_buffer("ids", torch.zeros(6, dtype=torch.int64))


def everything(seed: int | None = 0) -> Everything:
    """With values of all sorts; with no seed new ones, as a network that is to be filled."""
    model = Everything()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            elif tensor.dtype is torch.bool:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) < 0.5)
            else:
                tensor.copy_(torch.randint(-(2**40), 2**40, tensor.shape, generator=generator))
        model.short.data[0] = torch.tensor([float("nan"), -0.0, float("inf")])
        model.turned.data[0, 0] = torch.tensor(-0x00000F01, dtype=torch.int32).view(torch.float32)  # a NaN of its own
    return model


def small() -> nn.Module:
    """A network of 4, 16 and 3."""
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


def shrunk(seed: int = 0) -> Any:
    """Half of its units removed."""
    torch.default_generator.manual_seed(seed)
    return sw.shrink(small(), torch.ones(1, 4), sparsity=0.5)


def bits(tensor: Tensor) -> tuple[Any, ...]:
    """What two tensors have in common if they are the same bit by bit."""
    plain = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return tensor.dtype, tuple(tensor.shape), bytes(plain.numpy())


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have the same state, bit by bit."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(bits(first[name]) == bits(second[name]) for name in first)


@pytest.fixture(name="everything")
def _everything() -> Callable[..., nn.Module]:
    return everything


@pytest.fixture(name="small")
def _small() -> Callable[..., nn.Module]:
    return small


@pytest.fixture(name="shrunk")
def _shrunk() -> Callable[..., Any]:
    return shrunk


@pytest.fixture(name="same")
def _same() -> Callable[[nn.Module, nn.Module], bool]:
    return same
