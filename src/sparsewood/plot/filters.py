"""What the filters of convolutions look like: a heat map for each."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sparsewood.errors import SparsewoodError, require_model
from sparsewood.plot.panels import DIVERGING, WIDTH, Panel, draw, mosaic, places, require_most, row_ticks, vacant
from sparsewood.report.plots import require_matplotlib, save_figure
from sparsewood.selectors import select_layers
from sparsewood.snapshot import untouched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KernelMaps", "kernel_maps", "kernels"]

LIMIT = 3.0
GAP = 2
FLAT = 1e-12  # a deviation below this share of the largest value is rounding


@dataclass(frozen=True, eq=False)
class KernelMaps:
    """The maps of one convolution.

    Attributes:
        maps: float64 [filters, *kernel], the z-scores.
        pruned: bool [filters], whether every weight of the filter is zero.
        over: what was standardised: each "filter", or, where a kernel has one place only, the whole "layer".
    """

    maps: np.ndarray
    pruned: np.ndarray
    over: str


def kernel_maps(model: nn.Module, layers: str | Sequence[str] | None = None) -> dict[str, KernelMaps]:
    """For each filter the mean of its weights over input channels, standardised; by name of the convolution.

    map_i = (m_i - mean(m_i)) / std(m_i), with m_i = mean over input channels of weight_i (std with n in the
    denominator). Maps without spread, as those of filters of zeros, are 0. Kernels of a single place are standardised
    over the filters of the layer that are not zero. Of transposed convolutions a filter is an output channel.

    `layers` is what `selectors.select_layers` takes: names of layers or of modules around them, or "firstconv",
    "midconv", "lastconv"; linear layers around are not meant. None is all convolutions. The model is left as it is.

    Raises `SparsewoodError` where there is no convolution, and for weights that are NaN, infinite or complex.

    >>> conv = nn.Conv2d(2, 1, (1, 3), bias=False)
    >>> _ = conv.weight.data.copy_(torch.tensor([[[[0.0, 1.0, 2.0]], [[0.0, 3.0, 6.0]]]]))
    >>> kernel_maps(conv)[""].maps.round(3)
    array([[[-1.225,  0.   ,  1.225]]])
    """
    with untouched(model), torch.no_grad():
        return {name: _maps(name, layer) for name, layer in _convolutions(model, layers).items()}


def kernels(
    model: nn.Module,
    layers: str | Sequence[str] | None = None,
    *,
    most: int | None = 64,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """A heat map of every filter of every convolution, all in the same colours, white at the filter's mean.

    A map is the mean over input channels, standardised as `kernel_maps` has it; colours end at z-scores of -3 and 3.
    Filters of zeros are flat and crossed out. The numbers on the left are those of the first filter of each row. Of
    three-dimensional kernels the slices are side by side, those of one dimension are a line.

    Args:
        layers: names of layers or modules, or words such as "firstconv" (`kernel_maps`); None is all convolutions.
        most: how many filters of a layer are shown, the first ones; the title says of how many. None is all.
        path: a file to write the picture to; its ending says as what (.png, .svg, .pdf).

    Returns a figure of matplotlib that no window knows of. Raises as `kernel_maps`, and `SparsewoodError` if matplotlib
    is missing.

    >>> figure = kernels(nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 80, 3)))
    >>> [axes.get_label() for axes in figure.axes if axes.get_label()]
    ['0', '2', 'colours']
    """
    require_matplotlib()
    require_most(most)
    found = kernel_maps(model, layers)
    panels = [_panel(name or type(model).__name__, one, most) for name, one in found.items()]
    figure = draw(
        panels,
        f"Filters of {type(model).__name__}: mean over input channels",
        "the first filter of each row has the number beside it; crossed out: all weights are zero",
        bar="z-scores within each filter (kernels of one place: within the layer)",
    )
    if path is not None:
        save_figure(figure, os.fspath(path))
    return figure


def _convolutions(model: nn.Module, layers: str | Sequence[str] | None) -> dict[str, _ConvNd]:
    require_model(model)
    every = {name: module for name, module in model.named_modules() if isinstance(module, _ConvNd)}
    if not every:
        raise SparsewoodError(f"{type(model).__name__} has no convolution, so there are no kernels to draw.")
    if layers is None:
        return every
    words = [layers] if isinstance(layers, str) else list(layers)
    names = select_layers(model, words)
    linear = [name for name in names if name not in every]
    named = [name for name in linear if name in words]
    chosen = {name: every[name] for name in names if name in every}
    if named or not chosen:
        raise SparsewoodError(
            f"Kernels are those of convolutions. {', '.join(map(repr, named or linear))}: linear. "
            f"Convolutions: {', '.join(list(every)[:8])}{' ...' if len(every) > 8 else ''}."
        )
    return chosen


def _maps(name: str, layer: _ConvNd) -> KernelMaps:
    weight = layer.weight.detach()
    if weight.is_complex():
        raise SparsewoodError(f"The weight of {name!r} is complex; only real ones can be drawn.")
    weight = _by_filter(layer, weight.double().cpu())
    bad = int((~weight.isfinite()).sum())
    if bad:
        raise SparsewoodError(
            f"The weight of {name!r} has {bad:,} values that are NaN or infinite, so there is nothing to draw. Use a "
            "state from before the training diverged."
        )
    pruned = (weight == 0).flatten(1).all(1).numpy()
    means = weight.mean(1).numpy()
    places = tuple(range(1, means.ndim))
    if math.prod(means.shape[1:]) > 1:
        return KernelMaps(_standardised(means, places), pruned, "filter")
    maps = np.zeros_like(means)
    if not pruned.all():
        maps[~pruned] = _standardised(means[~pruned], (0, *places))
    return KernelMaps(maps, pruned, "layer")


def _by_filter(layer: _ConvNd, weight: Tensor) -> Tensor:
    """The weight as [filters, inputs of each, *kernel]."""
    if not isinstance(layer, _ConvTransposeNd):
        return weight
    return weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)


def _standardised(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    centred = values - values.mean(axes, keepdims=True)
    spread = values.std(axes, keepdims=True)
    flat = spread <= FLAT * np.abs(values).max(axes, keepdims=True)
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, spread))


# ---------------------------------------------------------------- drawing


def _panel(name: str, one: KernelMaps, most: int | None) -> Panel:
    tiles = np.stack([_flattened(each) for each in (one.maps if most is None else one.maps[:most])])
    zoom = len(tiles[0]) // (one.maps.shape[-2] if one.maps.ndim > 2 else 1)
    long, across = (side / zoom for side in tiles.shape[1:])
    inches = max(0.05, min(0.3 / min(long, across), 0.75 / max(long, across)))  # of one weight
    gap = 3 * GAP if one.maps.ndim > 3 else max(GAP, round(0.03 * max(tiles.shape[1:])))  # slices have gaps, too
    columns = max(1, min(int(WIDTH / (inches * across) + 1e-6), len(tiles)))
    width = min(WIDTH, columns * inches * across)
    height = math.ceil(len(tiles) / columns) * width / columns * long / across
    return Panel(
        name,
        _told(one, len(tiles)),
        mosaic(tiles, columns, gap),
        width,
        height,
        DIVERGING,
        (-LIMIT, LIMIT),
        row_ticks(len(tiles), columns, tiles.shape[1] + gap, height),
        tuple(box for box, zero in zip(places(tiles, columns, gap), one.pruned, strict=False) if zero),
        vacant(tiles, columns, gap),
        bar=False,
        sharp=True,
    )


def _told(one: KernelMaps, shown: int) -> str:
    count, zeros = len(one.maps), int(one.pruned.sum())
    kernel = " x ".join(map(str, one.maps.shape[1:])) if one.maps.ndim > 2 else f"length {one.maps.shape[1]}"
    several = "" if count == 1 else "s"
    left_out = f"; the first {shown} shown, {count - shown} left out" if shown < count else ""
    return f"{count} filter{several} of {kernel}{f', {zeros} of them zero' if zeros else ''}{left_out}"


def _flattened(kernel: np.ndarray) -> np.ndarray:
    """A map of any number of dimensions as an image: a line of one, slices side by side of three.

    Weights become squares of several pixels, so that the frames are thin beside small kernels.
    """
    if kernel.ndim == 3:
        slices = [np.pad(_flattened(each), ((0, 0), (0, 2)), constant_values=np.nan) for each in kernel]
        return np.concatenate(slices, 1)[:, :-2]
    image = np.atleast_2d(kernel)
    zoom = max(1, min(math.ceil(20 / min(image.shape)), math.ceil(140 / max(image.shape))))
    return image.repeat(zoom, 0).repeat(zoom, 1)
