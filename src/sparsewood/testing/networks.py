"""Random networks, out of everything that couples channels, for tests of what has to hold for any network.

Needs hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from sparsewood.testing.network_modules import (
    AlongSequence,
    Applied,
    Attended,
    Attention,
    ByShape,
    ChannelsLast,
    First,
    Fused,
    Gated,
    Halves,
    Joined,
    Last,
    Mean,
    Residual,
    Scaled,
    Shifted,
    Shuffled,
    Split,
    SqueezeExcite,
    Stacked,
    Tied,
    Token,
    Tokens,
    WithItself,
)

__all__ = ["random_networks"]

Shape = tuple[int, ...]
Block = Callable[[st.DrawFn, Shape], nn.Module]


@st.composite
def random_networks(draw: st.DrawFn, *, blocks: int = 5, depth: int = 2) -> tuple[nn.Module, Tensor]:
    """A network of random blocks in eval mode, as after training, and a batch of two inputs for it.

    Images go through convolutions of every kind, normalisations, activation functions, pooling, shortcuts,
    concatenations, splits and gates, which nest up to `depth` levels; many become sequences then, with attention,
    recurrent layers and perceptrons; then vectors. Scales, shifts and statistics of normalisations are random.

    Args:
        blocks: how many there are at most in a row.
    """
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    inputs = torch.randn(2, draw(st.sampled_from([1, 3])), draw(st.sampled_from([4, 6])), 6, generator=generator)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(generator.initial_seed())
        width = draw(_WIDTHS)
        stem = nn.Conv2d(inputs.shape[1], width, 3, padding=1)
        layers: list[nn.Module] = [stem, *_chain(draw, _shape(stem, inputs), _IMAGE, blocks, depth)]
        if draw(st.booleans()):
            layers.append(Tokens())
            layers += _chain(draw, _shape(nn.Sequential(*layers), inputs), _SEQUENCE, blocks, depth)
            layers.append(draw(st.sampled_from([Mean(1), nn.Flatten(), Last()])))
        else:
            layers += draw(st.sampled_from([[Mean(2, 3)], [nn.AdaptiveAvgPool2d(2), nn.Flatten()], [nn.Flatten()]]))
        layers += _head(draw, _shape(nn.Sequential(*layers), inputs)[1])
        model = nn.Sequential(*layers)
        _enliven(model)
    return model.eval(), inputs


_WIDTHS = st.sampled_from([2, 4, 6, 8])


def _shape(module: nn.Module, inputs: Tensor) -> Shape:
    return tuple(module.eval()(inputs).shape)


def _chain(draw: st.DrawFn, shape: Shape, kinds: dict[str, Block], longest: int, depth: int) -> list[nn.Module]:
    """Random blocks, one after the other; those that hold others need depth."""
    names = sorted(kinds) + (sorted(_NESTED) if depth else [])
    layers: list[nn.Module] = []
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=longest)):
        if name in _NESTED:
            inner = nn.Sequential(*_chain(draw, shape, kinds, 2, depth - 1))
            layers.append(_NESTED[name](draw, shape, inner))
        else:
            layers.append(kinds[name](draw, shape))
        shape = _shape(layers[-1], torch.zeros(shape))
    return layers


def _head(draw: st.DrawFn, features: int) -> list[nn.Module]:
    if draw(st.booleans()):
        return [nn.Linear(features, 3)]
    hidden = draw(_WIDTHS)
    return [nn.Linear(features, hidden), draw(_NORMS_OF_VECTORS)(hidden), nn.ReLU(), nn.Linear(hidden, 3)]


def _enliven(model: nn.Module) -> None:
    """Values as after training: no two units alike, none dead."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and tensor.dim() <= 1:
            positive = name.endswith(("weight", "running_var"))
            tensor.copy_(torch.rand_like(tensor) + 0.5 if positive else 0.5 * torch.randn_like(tensor))


# ---------------------------------------------------------------- blocks for images (B, C, H, W)


def _divisor(draw: st.DrawFn, *numbers: int) -> int:
    return draw(st.sampled_from([n for n in (1, 2, 3, 4, 6, 8) if all(number % n == 0 for number in numbers)]))


def _convolution(draw: st.DrawFn, shape: Shape) -> nn.Module:
    width, kernel = draw(_WIDTHS), draw(st.sampled_from([1, 3, (1, 3)]))
    padding = (
        "same" if kernel == (1, 3) else draw(st.sampled_from(range(2))) if kernel == 3 and min(shape[2:]) > 2 else 0
    )
    kernel, padding = (3, 1) if kernel == 3 and min(shape[2:]) < 3 else (kernel, padding)
    return nn.Conv2d(
        shape[1],
        width,
        kernel,
        stride=1 if padding == "same" else draw(st.sampled_from([1, 1, 2])),
        padding=padding,
        groups=_divisor(draw, shape[1], width) if draw(st.booleans()) else 1,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "replicate"])),
    )


def _depthwise(draw: st.DrawFn, shape: Shape) -> nn.Module:
    return nn.Conv2d(shape[1], shape[1] * draw(st.sampled_from([1, 1, 2])), 3, padding=1, groups=shape[1])


def _transposed(draw: st.DrawFn, shape: Shape) -> nn.Module:
    width = draw(_WIDTHS)
    groups = _divisor(draw, shape[1], width)
    if draw(st.booleans()):
        return nn.ConvTranspose2d(shape[1], width, 3, padding=1, groups=groups)
    return nn.Sequential(nn.ConvTranspose2d(shape[1], width, 2, stride=2, groups=groups), nn.MaxPool2d(2))


def _norm(draw: st.DrawFn, shape: Shape) -> nn.Module:
    channels = shape[1]
    kind = draw(st.sampled_from(["batch", "batch", "batch", "group", "instance", "layer", "rms"]))
    if kind == "group":
        return nn.GroupNorm(_divisor(draw, channels), channels)
    if kind == "instance" and shape[2] * shape[3] > 1:
        return nn.InstanceNorm2d(channels, affine=draw(st.booleans()))
    if kind == "layer":
        return ChannelsLast(nn.LayerNorm(channels))
    return ChannelsLast(nn.RMSNorm(channels)) if kind == "rms" else nn.BatchNorm2d(channels)


def _activation(draw: st.DrawFn, shape: Shape) -> nn.Module:
    kinds: list[Callable[[], nn.Module]] = [nn.ReLU, nn.GELU, nn.Sigmoid, nn.SiLU, nn.Tanh, nn.Softplus, nn.Hardswish]
    if len(shape) == 4:
        kinds.append(lambda: nn.PReLU(shape[1]))
    return draw(st.sampled_from(kinds))()


def _pooling(draw: st.DrawFn, shape: Shape) -> nn.Module:
    if min(shape[2:]) < 2:
        return nn.AdaptiveAvgPool2d(2)
    return draw(
        st.sampled_from(
            [
                nn.MaxPool2d(2),
                nn.AvgPool2d(3, stride=1, padding=1),
                nn.AdaptiveMaxPool2d(3),
                nn.Upsample(scale_factor=2),
            ]
        )
    )


def _halves(draw: st.DrawFn, shape: Shape) -> nn.Module:
    width = draw(_WIDTHS)
    made = nn.Conv2d(shape[1], 2 * width, 1) if len(shape) == 4 else nn.Linear(shape[2], 2 * width)
    axis = 1 if len(shape) == 4 else 2
    if draw(st.booleans()):
        return nn.Sequential(made, nn.GLU(axis))
    return nn.Sequential(made, Halves(axis, gate=draw(st.sampled_from([torch.sigmoid, F.gelu, torch.cos]))))


def _shuffled(draw: st.DrawFn, shape: Shape) -> nn.Module:
    if shape[1] % 2:
        return nn.ReLU()
    return nn.Sequential(nn.Conv2d(shape[1], shape[1], 1, groups=draw(st.sampled_from([1, 2]))), Shuffled())


def _pixels(draw: st.DrawFn, shape: Shape) -> nn.Module:
    width = draw(_WIDTHS)
    return nn.Sequential(nn.Conv2d(shape[1], 4 * width, 1), nn.PixelShuffle(2), nn.MaxPool2d(2))


def _squeeze_excite(draw: st.DrawFn, shape: Shape) -> nn.Module:
    return SqueezeExcite(shape[1], draw(_WIDTHS))


def _learned(draw: st.DrawFn, shape: Shape) -> nn.Module:
    sizes = (1, shape[1], 1, 1) if len(shape) == 4 else draw(st.sampled_from([(shape[2],), (1, *shape[1:])]))
    return draw(st.sampled_from([Scaled, Shifted]))(*sizes)


_IMAGE: dict[str, Block] = {
    "activation": _activation,
    "convolution": _convolution,
    "convolution and norm": lambda draw, shape: _then(draw, shape, _convolution, _norm, _activation),
    "depthwise": _depthwise,
    "halves": _halves,
    "learned": _learned,
    "norm": _norm,
    "pixels": _pixels,
    "pooling": _pooling,
    "shuffled": _shuffled,
    "squeeze and excite": _squeeze_excite,
    "transposed": _transposed,
}


def _then(draw: st.DrawFn, shape: Shape, *blocks: Block) -> nn.Module:
    layers: list[nn.Module] = []
    for block in blocks:
        layers.append(block(draw, shape))
        shape = _shape(layers[-1], torch.zeros(shape))
    return nn.Sequential(*layers)


# ---------------------------------------------------------------- blocks for sequences (B, N, C)


def _linear(draw: st.DrawFn, shape: Shape) -> nn.Module:
    return nn.Linear(shape[2], draw(_WIDTHS), bias=draw(st.booleans()))


def _perceptron(draw: st.DrawFn, shape: Shape) -> nn.Module:
    hidden = draw(_WIDTHS)
    return nn.Sequential(nn.Linear(shape[2], hidden), _activation(draw, shape), nn.Linear(hidden, shape[2]))


def _sequence_norm(draw: st.DrawFn, shape: Shape) -> nn.Module:
    kind: Any = draw(st.sampled_from([nn.LayerNorm, nn.RMSNorm]))
    return kind(shape[2], elementwise_affine=draw(st.booleans()))


def _attention(draw: st.DrawFn, shape: Shape) -> nn.Module:
    heads, head_dim = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([2, 3]))
    if draw(st.booleans()):
        return Fused(shape[2], heads, head_dim)
    return Attention(shape[2], heads, _divisor(draw, heads), head_dim)


def _attended(draw: st.DrawFn, shape: Shape) -> nn.Module:
    return Attended(shape[2], _divisor(draw, shape[2]))


def _recurrent(draw: st.DrawFn, shape: Shape) -> nn.Module:
    kind: Any = draw(st.sampled_from([nn.GRU, nn.LSTM, nn.RNN]))
    layers = draw(st.sampled_from([1, 1, 2]))
    return First(kind(shape[2], draw(_WIDTHS), layers, batch_first=True, bidirectional=draw(st.booleans())))


_SEQUENCE: dict[str, Block] = {
    "activation": _activation,
    "attended": _attended,
    "attention": _attention,
    "halves": _halves,
    "learned": _learned,
    "linear": _linear,
    "norm": _sequence_norm,
    "perceptron": _perceptron,
    "recurrent": _recurrent,
}
_NORMS_OF_VECTORS = st.sampled_from([nn.BatchNorm1d, nn.LayerNorm, nn.Identity])


# ---------------------------------------------------------------- blocks that are less usual


def _swapped(axis: int) -> Callable[[Tensor], Tensor]:
    """The second half first, by a size from the tensor's shape."""

    def swap(x: Tensor) -> Tensor:
        half = x.shape[axis] // 2
        return torch.cat([x.narrow(axis, half, x.shape[axis] - half), x.narrow(axis, 0, half)], axis)

    return swap


def _functions(axis: int) -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "swap": _swapped(axis),
        "flip": lambda x: x.flip(axis),
        "roll": lambda x: x.roll(1, axis),
        "softmax": lambda x: x.softmax(axis),
        "normalize": lambda x: F.normalize(x, dim=axis),
        "weighted by the largest": lambda x: x * x.amax(axis, keepdim=True).sigmoid(),
        "weighted by the mean": lambda x: x * x.mean(axis, keepdim=True).sigmoid(),
        "times its sum": lambda x: x * x.sum(axis, keepdim=True).tanh(),
        "every second": lambda x: x[:, ::2] if axis == 1 else x[..., ::2],
        "twice": lambda x: x.repeat_interleave(2, axis),
        "padded": lambda x: torch.cat([x, torch.zeros_like(x.narrow(axis, 0, 1))], axis),
        "less the mean": lambda x: x - x.mean(axis, keepdim=True),
        "by its width": lambda x: x / x.shape[axis] ** 0.5,
        "larger half": lambda x: torch.maximum(
            *(x if x.shape[axis] % 2 == 0 else x.repeat_interleave(2, axis)).chunk(2, axis)
        ),
    }


def _function(draw: st.DrawFn, shape: Shape) -> nn.Module:
    functions = _functions(1 if len(shape) == 4 else 2)
    name = draw(st.sampled_from(sorted(functions)))
    return Applied(functions[name], name)


def _reparametrized(draw: st.DrawFn, shape: Shape) -> nn.Module:
    width = draw(_WIDTHS)
    layer = nn.Conv2d(shape[1], width, 1) if len(shape) == 4 else nn.Linear(shape[2], width)
    return draw(st.sampled_from([weight_norm, weight_norm, spectral_norm]))(layer)


def _stacked(draw: st.DrawFn, shape: Shape) -> nn.Module:
    width = draw(_WIDTHS)
    layers = [nn.Conv2d(shape[1], width, 1) if len(shape) == 4 else nn.Linear(shape[2], width) for _ in range(2)]
    reductions: list[Callable[[Tensor], Tensor]] = [lambda x: x.sum(1), lambda x: (x.softmax(1) * x).mean(1)]
    return Stacked(draw(st.sampled_from(reductions)), *layers)


def _tied(draw: st.DrawFn, shape: Shape) -> nn.Module:
    return Tied(shape[2], draw(_WIDTHS))


def _by_shape(draw: st.DrawFn, shape: Shape) -> nn.Module:
    return ByShape(shape[2], _divisor(draw, shape[2]))


def _token(draw: st.DrawFn, shape: Shape) -> nn.Module:  # noqa: ARG001
    return Token(shape[2])


def _along_sequence(draw: st.DrawFn, shape: Shape) -> nn.Module:
    width = draw(_WIDTHS)
    layers = [nn.Conv1d(shape[2], width, 3, padding=1), nn.BatchNorm1d(shape[2]), nn.GroupNorm(1, shape[2])]
    return AlongSequence(draw(st.sampled_from(layers)))


def _with_itself(draw: st.DrawFn, shape: Shape) -> nn.Module:
    return WithItself(nn.Bilinear(shape[2], shape[2], draw(_WIDTHS)))


def _encoder(draw: st.DrawFn, shape: Shape) -> nn.Module:
    return nn.TransformerEncoderLayer(
        shape[2],
        _divisor(draw, shape[2]),
        draw(_WIDTHS),
        activation=draw(st.sampled_from(["relu", "gelu"])),
        norm_first=draw(st.booleans()),
        batch_first=True,
    )


def _einsum(draw: st.DrawFn, shape: Shape) -> nn.Module:
    width = draw(_WIDTHS)
    return nn.Sequential(
        nn.Linear(shape[2], width), nn.Tanh(), Applied(lambda x: torch.einsum("bnc,bmc,bmd->bnd", x, x, x), "einsum")
    )


_IMAGE |= {"function": _function, "reparametrized": _reparametrized, "stacked": _stacked}
_SEQUENCE |= {
    "along sequence": _along_sequence,
    "by shape": _by_shape,
    "einsum": _einsum,
    "encoder": _encoder,
    "function": _function,
    "reparametrized": _reparametrized,
    "stacked": _stacked,
    "tied": _tied,
    "token": _token,
    "with itself": _with_itself,
}


# ---------------------------------------------------------------- blocks that hold others


def _fitted(inner: nn.Module, shape: Shape) -> nn.Module:
    """A block whose output has the shape of its input."""
    made = _shape(inner, torch.zeros(shape))
    layers: list[nn.Module] = [inner]
    if len(shape) == 3:
        layers += [AlongSequence(nn.AdaptiveAvgPool1d(shape[1]))] if made[1] != shape[1] else []
        layers += [nn.Linear(made[2], shape[2])] if made[2] != shape[2] else []
    else:
        layers += [nn.AdaptiveAvgPool2d(shape[2:])] if made[2:] != shape[2:] else []
        layers += [nn.Conv2d(made[1], shape[1], 1)] if made[1] != shape[1] else []
    return nn.Sequential(*layers)


def _residual(draw: st.DrawFn, shape: Shape, inner: nn.Module) -> nn.Module:
    projected = draw(st.booleans())
    width = shape[1] if len(shape) == 4 else shape[2]
    projection = nn.Conv2d(width, width, 1) if len(shape) == 4 else nn.Linear(width, width)
    return Residual(_fitted(inner, shape), projection if projected else nn.Identity())


def _joined(draw: st.DrawFn, shape: Shape, inner: nn.Module) -> nn.Module:
    made = _fitted(inner, shape)
    others: Iterable[nn.Module] = draw(st.sampled_from([[nn.Identity()], [nn.ReLU(), nn.Identity()], []]))
    branches = [made, *others]
    return Joined(1 if len(shape) == 4 else 2, *draw(st.permutations(branches)))


def _gated(draw: st.DrawFn, shape: Shape, inner: nn.Module) -> nn.Module:  # noqa: ARG001
    return Gated(_fitted(inner, shape))


def _twice(draw: st.DrawFn, shape: Shape, inner: nn.Module) -> nn.Module:  # noqa: ARG001
    """The same layers two times."""
    made = _fitted(inner, shape)
    return nn.Sequential(made, nn.Tanh(), made)


def _split(draw: st.DrawFn, shape: Shape, inner: nn.Module) -> nn.Module:  # noqa: ARG001
    axis = 1 if len(shape) == 4 else 2
    width, part = shape[axis], draw(_WIDTHS)
    layer = nn.Conv2d(part, part, 1) if axis == 1 else nn.Linear(part, part)
    made = nn.Conv2d(width, part + width, 1) if axis == 1 else nn.Linear(width, part + width)
    return nn.Sequential(made, Split(axis, [part, width], layer))


_NESTED: dict[str, Callable[[st.DrawFn, Shape, nn.Module], nn.Module]] = {
    "gated": _gated,
    "joined": _joined,
    "residual": _residual,
    "split": _split,
    "twice": _twice,
}
