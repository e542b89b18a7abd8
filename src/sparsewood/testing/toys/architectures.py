"""Small networks: some whose answers are mental arithmetic, and a list of awkward architectures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Made = TypeVar("Made")

# ---------------------------------------------------------------- answers known by heart


def counting_linear(outputs: int, inputs: int) -> nn.Linear:
    """A matrix of 1, -2, 3, -4 ...: the magnitudes count up in row-major order, the signs alternate. No bias.

    >>> counting_linear(2, 2).weight.tolist()
    [[1.0, -2.0], [3.0, -4.0]]
    """
    layer = _seeded(lambda: nn.Linear(inputs, outputs, bias=False))
    count = torch.arange(1, outputs * inputs + 1)
    _fill(layer, (count * (1 - 2 * (count % 2 == 0).int())).float().reshape(outputs, inputs))
    return layer


def constant_filters(levels: Sequence[float], inputs: int = 1, kernel: int = 3) -> nn.Conv2d:
    """A convolution whose filter j is `levels[j]` everywhere; its L1 norm is |levels[j]| * inputs * kernel^2. No bias.

    >>> constant_filters([2.0, -1.0]).weight.detach().abs().sum((1, 2, 3))
    tensor([18.,  9.])
    """
    layer = _seeded(lambda: nn.Conv2d(inputs, len(levels), kernel, bias=False))
    _fill(layer, torch.tensor(levels)[:, None, None, None].expand(layer.weight.shape))
    return layer


def product_network(*weights: float) -> nn.Sequential:
    """y = w_1 w_2 ... w_n x for numbers x of shape (examples, 1): every dy/dw_i is y / w_i.

    >>> product_network(2.0, 3.0)(torch.ones(1, 1)).item()
    6.0
    """
    layers = [_seeded(lambda: nn.Linear(1, 1, bias=False)) for _ in weights]
    for layer, weight in zip(layers, weights, strict=True):
        _fill(layer, torch.tensor([[weight]]))
    return nn.Sequential(*layers)


def _fill(layer: nn.Linear | nn.Conv2d, values: Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(values)


def _seeded(make: Callable[[], Made]) -> Made:
    """What `make` returns with a fixed random state; the caller's is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make()


# ---------------------------------------------------------------- awkward architectures


@dataclass(frozen=True)
class Architecture:
    """A network in the making: `build()` gives a new one, always the same; `inputs()` what to call it with."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    vocabulary: int | None = None

    def build(self) -> nn.Module:
        """A new network with fixed random weights, in train mode."""
        return _seeded(self.make)

    def inputs(self, examples: int = 4, seed: int = 0) -> Tensor:
        """A batch: normal numbers, or whole numbers below `vocabulary`."""
        generator = torch.Generator().manual_seed(seed)
        if self.vocabulary is None:
            return torch.randn(examples, *self.shape, generator=generator)
        return torch.randint(self.vocabulary, (examples, *self.shape), generator=generator)

    def __str__(self) -> str:
        return self.name


class PadShortcut(nn.Module):
    """A residual block that halves space and doubles channels; the shortcut is every other pixel, padded with zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(2 * channels)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * channels)
        self.pad = channels // 2

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)))


class ConvShortcut(nn.Module):
    """A residual block whose shortcut is a 1 x 1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)) + self.shortcut(x))


class Concatenation(nn.Module):
    """Two steps that each read everything before them."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, growth, 3, padding=1)
        self.second = nn.Conv2d(channels + growth, growth, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, F.relu(self.first(x))], 1)
        return torch.cat([x, F.relu(self.second(x))], 1)


class Attention(nn.Module):
    """A transformer block, and a head that reads the mean over time."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.head((x + self.down(F.gelu(self.up(self.norm2(x))))).mean(1))


class Recurrent(nn.Module):
    """Two layers of LSTM and a head that reads the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.hidden, self.middle = nn.Linear(width, width), nn.Linear(width, width)
        self.output = nn.Linear(width, vocabulary, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(F.relu(self.middle(F.relu(self.hidden(self.embedding(tokens))))).mean(1))


class RawParameter(nn.Module):
    """A parameter that no layer owns, multiplied by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(x @ self.weight * self.scale))


def _with_head(*layers: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


def _conv_norm() -> nn.Module:
    return _with_head(
        nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Dropout(0.5), channels=4
    )


def _depthwise() -> nn.Module:
    return _with_head(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 6, 1), channels=6)


def _grouped() -> nn.Module:
    return _with_head(nn.Conv2d(2, 8, 3), nn.Conv2d(8, 12, 3, groups=2), nn.ReLU(), channels=12)


def _transposed() -> nn.Module:
    return _with_head(
        nn.ConvTranspose2d(2, 6, 3, stride=2), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, groups=2), channels=4
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("mlp", _mlp, (6,)),
    Architecture("conv_norm", _conv_norm, (2, 8, 8)),
    Architecture("pad_shortcut", lambda: _with_head(nn.Conv2d(2, 4, 3), PadShortcut(4), channels=8), (2, 8, 8)),
    Architecture("conv_shortcut", lambda: _with_head(ConvShortcut(2), ConvShortcut(4), channels=8), (2, 8, 8)),
    Architecture("concatenation", lambda: _with_head(Concatenation(2, 4), nn.Conv2d(10, 6, 1), channels=6), (2, 6, 6)),
    Architecture("depthwise", _depthwise, (2, 8, 8)),
    Architecture("grouped", _grouped, (2, 8, 8)),
    Architecture("transposed", _transposed, (2, 5, 5)),
    Architecture("attention", lambda: Attention(8, 2), (5, 8)),
    Architecture("recurrent", Recurrent, (4, 5)),
    Architecture("tied", lambda: Tied(11, 8), (5,), vocabulary=11),
    Architecture("raw_parameter", RawParameter, (6,)),
)
"""Networks with three classes (the tied one: eleven) that between them have what trips pruning code up."""
