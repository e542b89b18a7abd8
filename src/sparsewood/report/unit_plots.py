"""Pictures of what units do: UnitMem layer by layer, activations of single units, and the images behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparsewood.errors import SparsewoodError
from sparsewood.report.plots import COLORS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["activation_violins", "image_grid", "memorization_scatter"]

JITTER = 0.35
MOST_ROWS = 40


def memorization_scatter(scores: Mapping[str, Sequence[float]], title: str = "") -> Figure:
    """UnitMem of every unit, a column for each layer; every second column has a shade behind it.

    Units are moved to the side by a fixed pattern, so that the same scores make the same picture. NaN, units that were
    seen nowhere, are left out; dead ones are those at 0. The y axis is [-0.05, 1.05]. Raises `SparsewoodError` if there
    is no layer or a score outside [0, 1].
    """
    layers = {name: np.asarray(values, float) for name, values in scores.items()}
    if not layers:
        raise SparsewoodError("There is nothing to plot: no layer was given.")
    for name, values in layers.items():
        if not np.all(np.isnan(values) | ((values >= 0) & (values <= 1))):
            raise SparsewoodError(
                f"UnitMem lies in [0, 1]. Got {np.nanmin(values)} to {np.nanmax(values)} in {name!r}."
            )
    figure = new_figure(max(6.0, 1.5 + 0.45 * len(layers)), 4.8)
    axes = figure.subplots()
    for number, (name, values) in enumerate(layers.items()):
        if number % 2:
            axes.axvspan(number - 0.5, number + 0.5, color="0.93", linewidth=0, zorder=0)
        seen = values[~np.isnan(values)]
        axes.scatter(number + _aside(len(seen)), seen, s=10, color=COLORS[number % 2], linewidths=0, label=name)
    axes.set_xticks(range(len(layers)), list(layers), rotation=45, ha="right")
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(-0.05, 1.05)
    axes.set_ylabel("UnitMem")
    axes.set_title(title)
    return figure


def activation_violins(
    activations: np.ndarray, units: Sequence[int] | None = None, *, top: int = 5, title: str = ""
) -> Figure:
    """How the activations of single units are spread over examples: a violin for each of `units` of one layer.

    `activations` is [examples, units of the layer]. Each violin has its quartiles (a bar, with a line at the median),
    its mean (a white point), and the `top` largest activations as points. Units that do not change have a line. Raises
    `SparsewoodError` for another shape, numbers that are NaN or infinite, and units that are not there.
    """
    values = np.asarray(activations, float)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise SparsewoodError(
            f"Activations must be finite numbers [examples, units], at least one of each. Got shape {values.shape}."
        )
    chosen = list(range(values.shape[1])) if units is None else list(units)
    if not chosen or not all(0 <= unit < values.shape[1] for unit in chosen):
        raise SparsewoodError(f"Units must be some of 0 to {values.shape[1] - 1}. Got {chosen}.")
    figure = new_figure(max(6.0, 1.5 + 0.6 * len(chosen)), 4.8)
    axes = figure.subplots()
    for number, unit in enumerate(chosen):
        own = np.sort(values[:, unit])
        if own[-1] > own[0]:  # a density of equal numbers does not exist
            axes.violinplot(own, [number], widths=0.8, showextrema=False)
        low, middle, high = np.percentile(own, [25, 50, 75])
        axes.vlines(number, low, high, color="0.2", linewidth=4)
        axes.hlines(middle, number - 0.12, number + 0.12, color="0.2", linewidth=1.5)
        axes.scatter([number], [own.mean()], s=14, color="white", edgecolors="0.2", linewidths=0.8, zorder=3)
        largest = own[len(own) - min(top, len(own)) :]
        axes.scatter([number] * len(largest), largest, s=8, color=COLORS[1], linewidths=0, zorder=3)
    axes.set_xticks(range(len(chosen)), [str(unit) for unit in chosen])
    axes.set_xlabel("unit")
    axes.set_ylabel("activation")
    axes.set_title(title)
    return figure


def image_grid(rows: Mapping[str, Sequence[tuple[str, np.ndarray]]], title: str = "") -> Figure:
    """Images with captions, a row for each key: (caption, pixels in [0, 1] of shape [channels, height, width]).

    One channel is grey, three are red, green and blue; of other numbers the mean is shown. Raises `SparsewoodError` if
    there is no image; rows beyond 40 are left out.
    """
    shown = {name: images for name, images in list(rows.items())[:MOST_ROWS] if images}
    if not shown:
        raise SparsewoodError("There is nothing to plot: no image was given.")
    across = max(len(images) for images in shown.values())
    figure = new_figure(1.6 * across + 1.6, 1.7 * len(shown) + 0.6)
    grid = figure.subplots(len(shown), across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, (name, images) in zip(grid, shown.items(), strict=True):
        line[0].text(-0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
        for axes, (caption, pixels) in zip(line, images, strict=False):
            axes.imshow(_visible(pixels), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(caption, fontsize=7)
    figure.suptitle(title, fontsize=9)
    return figure


def _visible(pixels: np.ndarray) -> np.ndarray:
    image = np.clip(np.asarray(pixels, float), 0, 1)
    return image.transpose(1, 2, 0) if len(image) == 3 else image.mean(0)


def _aside(count: int) -> np.ndarray:
    """Numbers in [-JITTER, JITTER], spread evenly however many there are: multiples of the golden ratio."""
    golden = (math.sqrt(5) - 1) / 2
    return JITTER * (2 * ((np.arange(count) * golden) % 1) - 1)
