"""The convnet spec: a sequential network as a list that can stand in a YAML or JSON file.

Each entry is one layer:

    [C, units, kernel, {strides, padding, groups, bias}]   2-d convolution; the options may be left out
    [MP, pool, stride]                                      maximum over pool x pool pixels
    [D, units]                                              fully connected layer
    [DO, rate]                                              dropout
    [F]                                                     flatten
    [GA]                                                    mean over all pixels, flat
    [O, classes]                                            fully connected layer that gives the logits; only at the end

`kernel`, `pool`, `stride` and `strides` are a number or a pair [height, width]. `padding` is "valid" (none, the
default), "same" (an odd kernel; half of it on every side, so that only strides make the map smaller) or a number.
After C and D follow BatchNorm (if asked for), the activation and dropout (if asked for).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsewood.errors import SparsewoodError, UnknownName

__all__ = ["ACTIVATIONS", "FORMS", "Extras", "build"]

Shape = tuple[int, ...]
"""(channels, height, width) of a map, or (features,) once it is flat."""

FORMS = {
    "C": "[C, units, kernel] or [C, units, kernel, {strides, padding, groups, bias}]",
    "MP": "[MP, pool, stride]",
    "D": "[D, units]",
    "DO": "[DO, rate]",
    "O": "[O, classes]",
    "F": "[F]",
    "GA": "[GA]",
}
NODES = {"C": "conv", "MP": "maxpool", "D": "dense", "DO": "dropout", "O": "output", "F": "flatten", "GA": "gap"}
OPTIONS = ("strides", "padding", "groups", "bias")
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "elu": nn.ELU,
}


@dataclass(frozen=True)
class Extras:
    """What follows every C and D, with the class of the activation's name."""

    batch_norm: bool
    activation: str
    dropout: float


def build(spec: Sequence[Any], shape: Shape, extras: Extras) -> dict[str, nn.Module]:
    """The layers of `spec` for inputs of `shape`, by name: conv_1, conv_1_bn, conv_1_a, conv_1_dr, maxpool_1, ...

    Raises `SparsewoodError` that names the entry for one that is malformed or does not fit what comes before it.
    """
    layers: dict[str, nn.Module] = {}
    for index, entry in enumerate(spec):
        where = f"spec[{index}] = {_shown(entry)}"
        try:
            module, shape = _layer(entry, shape, bias=not extras.batch_norm)
        except _Problem as problem:
            raise SparsewoodError(f"{where}: {problem}") from None
        kind = entry[0]
        if kind == "O" and index < len(spec) - 1:
            raise SparsewoodError(f"{where}: [O, classes] gives the logits and must be the last entry.")
        name = f"{NODES[kind]}_{1 + sum(other[0] == kind for other in spec[:index])}"
        layers[name] = module
        if kind in ("C", "D"):
            layers |= _following(name, shape, extras)
    return layers


def _following(name: str, shape: Shape, extras: Extras) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {}
    if extras.batch_norm:
        layers[f"{name}_bn"] = nn.BatchNorm2d(shape[0]) if len(shape) == 3 else nn.BatchNorm1d(shape[0])
    layers[f"{name}_a"] = ACTIVATIONS[extras.activation]()
    if extras.dropout:
        layers[f"{name}_dr"] = nn.Dropout(extras.dropout)
    return layers


class _Problem(Exception):
    """What is wrong with one entry."""


def _layer(entry: Any, shape: Shape, *, bias: bool) -> tuple[nn.Module, Shape]:  # noqa: PLR0911 - one return per kind
    match entry:
        case ["C", units, kernel]:
            return _convolution(units, kernel, {}, shape, bias)
        case ["C", units, kernel, Mapping() as options]:
            return _convolution(units, kernel, options, shape, bias)
        case ["MP", pool, stride]:
            size, step = _pair("pool", pool), _pair("stride", stride)
            return nn.MaxPool2d(size, step), (shape[0], *_slide(shape, size, step, (0, 0)))
        case ["D" | "O", units]:
            return nn.Linear(_features(shape), _count("units", units)), (units,)
        case ["DO", rate]:
            return nn.Dropout(_rate(rate)), shape
        case ["F"]:
            _map(shape)
            return nn.Flatten(), (shape[0] * shape[1] * shape[2],)
        case ["GA"]:
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (_map(shape)[0],)
        case [str(kind), *_] if kind in FORMS:
            raise _Problem(f"expected the form {FORMS[kind]}.")
        case [kind, *_]:
            raise _Problem(f"no kind of layer is called {kind!r}. There are {', '.join(FORMS)}.")
        case _:
            raise _Problem(f"an entry must be a list that starts with one of {', '.join(FORMS)}, as [C, 16, 3].")


def _convolution(
    units: Any, kernel: Any, options: Mapping[str, Any], shape: Shape, bias: bool
) -> tuple[nn.Module, Shape]:
    for name in options:
        if name not in OPTIONS:
            raise _Problem(str(UnknownName.among("option", str(name), OPTIONS)))
    units, kernel = _count("units", units), _pair("kernel", kernel)
    strides, groups = _pair("strides", options.get("strides", 1)), _count("groups", options.get("groups", 1))
    inputs = _map(shape)[0]
    if inputs % groups or units % groups:
        raise _Problem(f"{groups} groups do not divide {inputs} input channels and {units} units.")
    bias = options.get("bias", bias)
    if not isinstance(bias, bool):
        raise _Problem(f"'bias' must be true or false. Got {bias!r}.")
    padding = _padding(options.get("padding", "valid"), kernel)
    module = nn.Conv2d(inputs, units, kernel, strides, padding, groups=groups, bias=bias)
    return module, (units, *_slide(shape, kernel, strides, padding))


def _padding(padding: Any, kernel: tuple[int, int]) -> tuple[int, int]:
    if padding == "valid":
        return 0, 0
    if padding == "same":
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            raise _Problem(f"padding 'same' needs a kernel of odd size. Got {list(kernel)}.")
        return kernel[0] // 2, kernel[1] // 2
    if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
        raise _Problem(f"'padding' must be 'valid', 'same' or a whole number >= 0. Got {padding!r}.")
    return padding, padding


def _slide(shape: Shape, window: Sequence[int], step: Sequence[int], padding: Sequence[int]) -> tuple[int, int]:
    _, height, width = _map(shape)
    after = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip((height, width), window, step, padding, strict=True))
    if min(after) < 1:
        raise _Problem(f"a window of {window[0]} x {window[1]} does not fit into a map of {height} x {width} pixels.")
    return after[0], after[1]


def _map(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise _Problem(f"it needs a map of pixels, but what comes before is flat ({shape[0]} features).")
    return shape


def _features(shape: Shape) -> int:
    if len(shape) != 1:
        raise _Problem(
            f"it needs flat features, but a map of {' x '.join(map(str, shape))} comes in. Put [F] before it."
        )
    return shape[0]


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _Problem(f"{name!r} must be a whole number >= 1. Got {value!r}.")
    return value


def _pair(name: str, value: Any) -> tuple[int, int]:
    match value:
        case [height, width]:
            return _count(name, height), _count(name, width)
        case _:
            return _count(name, value), _count(name, value)


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise _Problem(f"the rate must be a number between 0 and 1. Got {value!r}.")
    return float(value)


def _shown(entry: Any) -> str:
    text = repr(entry)
    return text if len(text) <= 80 else text[:77] + "..."
