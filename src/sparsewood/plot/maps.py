"""What a network sees of one example: the input, and all channels after every activation function."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsewood.plot.calls import ActivationCall, activation_calls, batch_size, of_example
from sparsewood.plot.panels import DIVERGING, HEAT, WIDTH, Panel, draw, mosaic, require_most, row_ticks, vacant
from sparsewood.report.plots import require_matplotlib, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["activations"]

LINE = 64  # features in one line of a strip
LINES = 64
TALLEST = 3.2  # of an image of positions and features, inches
THINNEST = 0.3  # of a picture that goes in, inches
LONGEST = 8  # a channel's long side over its short one, as it is drawn
QUANTILE = 99.5


def activations(
    model: nn.Module,
    inputs: Any,
    *,
    example: int = 0,
    layers: str | Sequence[str] | None = None,
    most: int | None = 64,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """One example of a batch, and what every activation function makes of it, in the order of the calls.

    Channels of images are in a grid, [positions, features] an image, as are channels one place high or wide, features
    alone a strip that is read line by line; the numbers on the left are those of the first channel or feature of each
    row. Each picture has its own colours, explained beside it: from 0 upwards, or, with negative values, white at 0;
    they end at the quantile of 99.5 % of |values|, so that single large values do not hide the others. Pictures of 1 or
    3 channels that go in are shown as such, scaled to their range.

    Which calls are seen, how the model runs and that it is left as it was, stands at `activation_calls`.

    Args:
        inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
        example: which example of the batch.
        layers: names of modules, or shell patterns: only what is called in or below them. None is all.
        most: how many channels are shown, the first ones; the title says of how many. None is all.
        path: a file to write the picture to; its ending says as what (.png, .svg, .pdf).

    Returns a figure of matplotlib that no window knows of. Raises as `activation_calls`, and `SparsewoodError` if
    matplotlib is missing.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5), nn.Sigmoid())
    >>> figure = activations(net, torch.randn(2, 3, 8, 8))
    >>> [axes.get_label() for axes in figure.axes if "colours" not in axes.get_label()]
    ['input', '1: relu', '4: sigmoid']
    """
    require_matplotlib()
    require_most(most)
    calls = activation_calls(model, inputs, example=example, layers=layers)
    panels = [*_inputs(inputs, example, most), *(_panel(_label(one), one.values, most) for one in calls)]
    figure = draw(
        panels,
        f"Activations of {type(model).__name__}: example {example} of {batch_size(inputs)}",
        "in the order of the calls, from top to bottom, each in colours of its own",
    )
    if path is not None:
        save_figure(figure, os.fspath(path))
    return figure


def _inputs(inputs: Any, example: int, most: int | None) -> list[Panel]:
    size = batch_size(inputs)
    tensors = [tensor for tensor in tree_leaves(inputs) if isinstance(tensor, Tensor) and tensor.ndim]
    names = ["input"] if len(tensors) == 1 else [f"input {number}" for number in range(len(tensors))]
    panels = []
    for name, tensor in zip(names, tensors, strict=True):
        values = of_example(tensor.detach(), size, example % size).cpu()
        title = f"{name}, absolute values" if values.is_complex() else name
        values = values.abs() if values.is_complex() else values
        pixels = _pixels(values)
        panels.append(_panel(title, values, most) if pixels is None else _picture(title, values, pixels))
    return panels


def _label(one: ActivationCall) -> str:
    again = f", call {one.number + 1}" if one.number else ""
    return f"{one.module or 'the model'}: {one.function}{again}"


# ---------------------------------------------------------------- pictures of the input


def _pixels(values: Tensor) -> np.ndarray | None:
    """If `values` are the pixels of a picture: [height, width] if grey, [height, width, 3] in [0, 1] if coloured."""
    numbers = values.is_floating_point() or values.dtype == torch.uint8
    if values.ndim != 3 or len(values) not in (1, 3) or not numbers or not values.isfinite().all():
        return None
    pixels = values.to(torch.float32).numpy()
    if len(pixels) == 1:
        return pixels[0]
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) / (high - low) if high > low else np.full_like(pixels, 0.5)).transpose(1, 2, 0)


def _picture(name: str, values: Tensor, pixels: np.ndarray) -> Panel:
    width, height = _fitted(pixels.shape[0], pixels.shape[1], 1.2)
    low, high = float(values.min()), float(values.max())
    detail = f"{_shape(values)}; colours scaled from {low:.2g} ... {high:.2g}"
    return Panel(name, detail, pixels, width, height, "gray", (low, high), sharp=max(pixels.shape) < 100)


def _fitted(long: int, across: int, inches: float) -> tuple[float, float]:
    scale = min(inches / long, WIDTH / across)
    return max(THINNEST, across * scale), max(THINNEST, long * scale)


# ---------------------------------------------------------------- activations


@dataclass(frozen=True, eq=False)
class _Sheet:
    """The image that values are shown as, and how."""

    image: np.ndarray
    width: float
    height: float
    told: str
    ticks: tuple[tuple[float, ...], tuple[str, ...]] = ((), ())
    empty: tuple[float, float, float, float] | None = None


def _panel(name: str, values: Tensor, most: int | None) -> Panel:
    numbers = values.to(torch.float32).numpy()
    if _is_lines(numbers):
        numbers = numbers.reshape(len(numbers), -1)
    if numbers.ndim >= 3 and numbers.size and max(numbers.shape[1:]) > 1:
        sheet = _grid(numbers, most)
    elif numbers.ndim == 2 and min(numbers.shape) > 1:
        sheet = _table(numbers)
    else:
        sheet = _strip(numbers.reshape(-1))
    colors, limits = _limits(numbers)
    detail = f"{_shape(values)}{sheet.told}{_range(numbers)}"
    sharp = sheet.image.shape[0] < 100 * sheet.height and sheet.image.shape[1] < 100 * sheet.width
    return Panel(
        name, detail, sheet.image, sheet.width, sheet.height, colors, limits, sheet.ticks, (), sheet.empty, sharp=sharp
    )  # fmt: skip


def _is_lines(numbers: np.ndarray) -> bool:
    """Whether channels are lines one place high or wide, as of signals; not an image with one channel, the last."""
    if numbers.ndim != 3 or 1 not in numbers.shape[1:] or not numbers.size:
        return False
    first, second, _ = numbers.shape
    return first != second or first == 1


def _grid(numbers: np.ndarray, most: int | None) -> _Sheet:
    channels, what, last = _channels(numbers)
    zeros = int((channels == 0).all((1, 2)).sum())
    count = len(channels)
    tiles = channels if most is None else channels[:most]
    left_out = f"; the first {len(tiles)} {what} shown, {count - len(tiles)} left out" if len(tiles) < count else last
    long, across = tiles.shape[1:]
    zoom = math.ceil(16 / max(long, across))
    gap = max(1, round(0.04 * zoom * max(long, across)))
    down, right = math.ceil(across / (LONGEST * long)), math.ceil(long / (LONGEST * across))
    tiles = tiles.repeat(zoom * down, 1).repeat(zoom * right, 2)
    long, across = down * long, right * across
    inches = min(max(0.3, 0.015 * max(long, across)), 0.6) / max(long, across)
    columns = max(1, min(int(WIDTH / (inches * across) + 1e-6), len(tiles)))
    width = min(WIDTH, columns * inches * across)
    height = min(TALLEST * 4, math.ceil(len(tiles) / columns) * width / columns * long / across)
    told = f"{left_out}{f'; {zeros} all 0' if zeros else ''}"
    ticks = row_ticks(len(tiles), columns, tiles.shape[1] + gap, height)
    return _Sheet(mosaic(tiles, columns, gap), width, height, told, ticks, vacant(tiles, columns, gap))


def _channels(numbers: np.ndarray) -> tuple[np.ndarray, str, str]:
    """[channels, height, width], what a channel is called, and what to say of the order of axes.

    Two equal sides before a different third axis are an image with its channels last. Of more than three axes all but
    the last two are counted as one.
    """
    first, second, *rest = numbers.shape
    if len(rest) == 1 and first == second != rest[0]:
        return numbers.transpose(2, 0, 1), "channels (last axis)", "; channels on the last axis"
    if len(rest) == 1:
        return numbers, "channels", ""
    return numbers.reshape(-1, *numbers.shape[-2:]), "slices", "; slices of each channel in turn"


def _table(numbers: np.ndarray) -> _Sheet:
    long = len(numbers)
    height = min(max(0.3, 0.03 * long), TALLEST)
    return _Sheet(
        numbers, WIDTH, height, "", ((0.5, long - 0.5), ("0", str(long - 1))) if long > 1 else ((0.5,), ("0",))
    )


def _strip(numbers: np.ndarray) -> _Sheet:
    """Features line by line; the last line ends where they do."""
    shown = numbers[: LINE * LINES]
    left_out = (
        f"; the first {len(shown)} shown, {len(numbers) - len(shown)} left out" if len(shown) < len(numbers) else ""
    )
    across = max(1, min(LINE, len(shown)))
    lines = max(1, math.ceil(len(shown) / across))
    image = np.full(lines * across, np.nan, np.float32)
    image[: len(shown)] = shown
    rest = len(shown) % across
    empty = (rest, lines - 1, across, lines) if rest else None
    zeros = int((numbers == 0).sum())
    told = f"{left_out}; {zeros} are 0" if zeros else left_out
    height = max(0.18, 0.09 * lines)
    ticks = row_ticks(len(shown), across, 1, height)
    return _Sheet(image.reshape(lines, across), WIDTH * across / LINE, height, told, ticks, empty)


def _limits(numbers: np.ndarray) -> tuple[str, tuple[float, float]]:
    finite = numbers[np.isfinite(numbers)]
    size = float(np.percentile(np.abs(finite), QUANTILE)) if finite.size else 0.0
    size = size or float(np.abs(finite).max(initial=0.0)) or 1.0
    return (DIVERGING, (-size, size)) if (finite < 0).any() else (HEAT, (0.0, size))


def _range(numbers: np.ndarray) -> str:
    finite = numbers[np.isfinite(numbers)]
    bad = numbers.size - finite.size
    told = f"; {finite.min():.2g} ... {finite.max():.2g}" if finite.size else ""
    return f"{told}; {bad} NaN or infinite (grey)" if bad else told


def _shape(values: Tensor) -> str:
    return " x ".join(map(str, values.shape)) or "one number"
