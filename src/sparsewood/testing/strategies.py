"""Hypothesis strategies: score tensors with ties, shapes, masks, amounts, small networks. Needs hypothesis."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsewood.types import Amount, Count, Density, Masks, Remaining, Sparsity

__all__ = ["amounts", "masks", "networks", "score_tensors", "shapes"]

FEW_VALUES = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0)


def shapes(
    *, min_axes: int = 1, max_axes: int = 4, min_size: int = 1, max_size: int = 6
) -> st.SearchStrategy[tuple[int, ...]]:
    """Parameter shapes: by default one to four axes, one to six long."""
    sizes = st.integers(min_size, max_size)
    return st.lists(sizes, min_size=min_axes, max_size=max_axes).map(tuple)


@st.composite
def score_tensors(draw: st.DrawFn, shape: Any = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Finite tensors of a shape (a tuple, a strategy, or by default any of `shapes()`), most of them full of ties.

    All different, few values, almost all zero, all equal, or wild: denormal and huge numbers of both signs.
    """
    size = draw(shape if isinstance(shape, st.SearchStrategy) else st.just(shape) if shape is not None else shapes())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(["different", "few", "zeros", "equal", "wild"]))
    if kind == "equal":
        return torch.full(size, draw(st.sampled_from(FEW_VALUES)), dtype=dtype)
    if kind == "few":
        return torch.tensor(FEW_VALUES, dtype=dtype)[torch.randint(len(FEW_VALUES), size, generator=generator)]
    values = torch.randn(size, generator=generator, dtype=torch.float64)
    if kind == "zeros":
        values *= torch.rand(size, generator=generator) < 0.01
    if kind == "wild":
        finite = torch.finfo(dtype)
        values = values.sign() * finite.tiny ** torch.rand(size, generator=generator, dtype=torch.float64)
        values[torch.rand(size, generator=generator) < 0.1] = finite.max
        values[torch.rand(size, generator=generator) < 0.1] = finite.min
    return values.to(dtype)


@st.composite
def masks(draw: st.DrawFn, of: dict[str, tuple[int, ...]]) -> Masks:
    """Masks for parameters of these names and shapes, sparse ones and dense ones."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    return Masks({name: torch.rand(shape, generator=generator) < density for name, shape in of.items()})


def amounts(units: int) -> st.SearchStrategy[Amount]:
    """Amounts of every kind (but compression, which depends on the whole model) for a pool of so many units."""
    fractions = st.one_of(st.floats(0, 1), st.integers(0, 20).map(lambda n: n / 20))
    return st.one_of(
        st.integers(0, units).map(Count), fractions.map(Sparsity), fractions.map(Density), fractions.map(Remaining)
    )


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A small convolutional network of random blocks with fixed weights, and a batch of inputs for it."""
    channels = draw(st.sampled_from([2, 4]))
    inputs = torch.randn(3, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draw(st.integers(0, 2**31)))
        layers: list[nn.Module] = []
        for kind in draw(st.lists(st.sampled_from(sorted(_BLOCKS)), min_size=1, max_size=4)):
            wider = draw(st.sampled_from([2, 4, 6]))
            layers += _BLOCKS[kind](channels, wider)
            channels = channels if kind in {"norm", "depthwise"} else wider
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]
    return nn.Sequential(*layers), inputs


_BLOCKS = {
    "conv": lambda a, b: [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()],
    "pointwise": lambda a, b: [nn.Conv2d(a, b, 1, bias=False)],
    "norm": lambda a, b: [nn.BatchNorm2d(a), nn.ReLU()],  # noqa: ARG005
    "depthwise": lambda a, b: [nn.Conv2d(a, a, 3, padding=1, groups=a)],  # noqa: ARG005
    "grouped": lambda a, b: [nn.Conv2d(a, b, 1, groups=2)],
    "transposed": lambda a, b: [nn.ConvTranspose2d(a, b, 1)],
}
