"""Modules of which random networks are built: each couples channels in its own way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Tokens(nn.Module):
    """(B, C, H, W) -> (B, H * W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class Mean(nn.Module):
    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.axes)


class Last(nn.Module):
    """The last element of a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1]


class Residual(nn.Module):
    def __init__(self, inner: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.inner, self.shortcut = inner, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.inner(x)


class Joined(nn.Module):
    """What several branches make of the input, side by side."""

    def __init__(self, axis: int, *branches: nn.Module) -> None:
        super().__init__()
        self.axis, self.branches = axis, nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], self.axis)


class Gated(nn.Module):
    """The input times what a branch makes of it, between 0 and 1."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x * self.inner(x).sigmoid()


class Halves(nn.Module):
    """One half of the channels gates the other."""

    def __init__(self, axis: int, *, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.axis, self.gate = axis, gate

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, self.axis)
        return value * self.gate(gate)


class Split(nn.Module):
    """A layer on some of the channels, the others as they are."""

    def __init__(self, axis: int, sizes: list[int], inner: nn.Module) -> None:
        super().__init__()
        self.axis, self.sizes, self.inner = axis, sizes, inner

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.split(self.sizes, self.axis)
        return torch.cat([second, self.inner(first)], self.axis)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3))).relu()).sigmoid()[..., None, None]


class Shuffled(nn.Module):
    """The channels of two groups take turns."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)


class Scaled(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Shifted(nn.Module):
    """A learned addend for each channel, or for each element of a sequence."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.addend = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.addend


class ChannelsLast(nn.Module):
    """A layer for the channels of images, at every place."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Heads of one matrix, or of three of which those of keys and values may be fewer."""

    def __init__(self, width: int, heads: int, shared: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.shared, self.head_dim = heads, shared, head_dim
        self.q = nn.Linear(width, heads * head_dim)
        self.k, self.v = (nn.Linear(width, heads // shared * head_dim) for _ in range(2))
        self.out = nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, -1, self.head_dim).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        k, v = k.repeat_interleave(self.shared, 1), v.repeat_interleave(self.shared, 1)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Fused(nn.Module):
    """Queries, keys and values from one matrix."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv, self.out = nn.Linear(width, 3 * heads * head_dim), nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        parts = self.qkv(x).reshape(batch, length, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, -1))


class Attended(nn.Module):
    """`nn.MultiheadAttention` of a sequence to itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


class First(nn.Module):
    """The first of what a recurrent layer returns."""

    def __init__(self, inner: nn.RNNBase) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class Applied(nn.Module):
    """A function."""

    def __init__(self, function: Callable[[Tensor], Tensor], name: str) -> None:
        super().__init__()
        self.function, self.name = function, name

    def extra_repr(self) -> str:
        return self.name

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Stacked(nn.Module):
    """Branches beside one another on an axis of their own, which is then reduced."""

    def __init__(self, reduce: Callable[[Tensor], Tensor], *branches: nn.Module) -> None:
        super().__init__()
        self.reduce, self.branches = reduce, nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(torch.stack([branch(x) for branch in self.branches], 1))


class Tied(nn.Module):
    """There and back through the same matrix."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.layer(x).relu(), self.layer.weight.t())


class ByShape(nn.Module):
    """Attention whose heads are as wide as the input has room for."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width))


class Token(nn.Module):
    """A learned element in front of the sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1)


class AlongSequence(nn.Module):
    """A layer that wants (B, C, N)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


class WithItself(nn.Module):
    def __init__(self, inner: nn.Bilinear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x)
