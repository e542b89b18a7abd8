"""Which values weights have, and how many entries each: before weight sharing, and after."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.parameters import names_match
from sparsewood.plot.panels import middle_cut
from sparsewood.quantization.sharing import Sharing
from sparsewood.report.plots import COLORS, new_figure, require_matplotlib, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

__all__ = ["ValueCounts", "Weights", "value_counts", "weight_sharing"]

Weights = nn.Module | Mapping[str, Tensor] | Sharing | Tensor
"""A model, a state dict, what `share_weights` returned, or one weight."""

BINS = 256
MOST_POINTS = 1024  # of a drawing in which every value is a point
BEFORE, AFTER = COLORS[0], COLORS[4]


@dataclass(frozen=True, eq=False)
class ValueCounts:
    """How many entries have each value.

    Attributes:
        values: float64, ascending; a zero is among them if there is one. The middles of bins if `width` is set.
        counts: int64, how many entries each; they add up to the number of entries.
        distinct: how many different values there are.
        zeros: how many entries are zero.
        width: of bins of values other than zero; None where every value is listed.
    """

    values: np.ndarray
    counts: np.ndarray
    distinct: int
    zeros: int
    width: float | None = None

    @property
    def entries(self) -> int:
        """Number of entries of the weight."""
        return int(self.counts.sum())


def value_counts(weight: Tensor, *, most_points: int | None = None, bins: int = BINS) -> ValueCounts:
    """The values of a weight and how many entries have each.

    With more than `most_points` (at least 1) different values, entries other than zero are counted in parts of equal
    width, as many as make `bins` from the least to the largest value; 0 is where two of them meet, and parts without
    entries are left out. Zeros are counted by themselves always.

    Raises `SparsewoodError` for weights without entries, and for values that are NaN, infinite or complex.

    >>> one = value_counts(torch.tensor([0.5, 0.0, 0.5, -1.0]))
    >>> one.values, one.counts, one.zeros
    (array([-1. ,  0. ,  0.5]), array([1, 1, 2]), 1)
    >>> value_counts(torch.arange(-2.0, 100), most_points=10, bins=2).counts
    array([ 2,  1, 50, 49])
    """
    weight = weight.detach()
    if not weight.numel() or weight.is_complex() or not bool(weight.isfinite().all()):
        what = "complex" if weight.is_complex() else "NaN or infinite" if weight.numel() else "none"
        raise SparsewoodError(
            f"Values of weights must be real, finite numbers, at least one. Got some that are {what}."
        )
    distinct, counts = torch.unique(weight.cpu(), return_counts=True)
    values, counts = distinct.double().numpy() + 0.0, counts.numpy()  # -0 is written as 0
    zeros = int(counts[values == 0].sum())
    if most_points is None or len(values) <= max(1, most_points):
        return ValueCounts(values, counts, len(values), zeros)
    if bins < 1:
        raise SparsewoodError(f"bins must be at least 1. Got {bins}.")
    other = values != 0
    width = (values[-1] - values[0]) / bins
    filled, places = np.unique(np.floor(values[other] / width), return_inverse=True)
    middles, tallied = (filled + 0.5) * width, np.bincount(places, weights=counts[other]).astype(np.int64)
    if zeros:
        at = int(np.searchsorted(middles, 0.0))
        middles, tallied = np.insert(middles, at, 0.0), np.insert(tallied, at, zeros)
    return ValueCounts(middles, tallied, len(values), zeros, width)


def weight_sharing(
    before: Weights,
    after: Weights,
    *,
    include: str | Sequence[str] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """For each weight its values and how many entries have each, before (blue) and after (orange); counts logarithmic.

    A weight with more than 1,024 different values is drawn as a histogram of 256 bins, one with fewer as a stem for
    each value. Zeros are a line with a number of their own. Text over each drawing says how many values there were and
    are.

    Args:
        before, after: models, state dicts, what `share_weights` returned, or one weight each. `share_weights` writes
            into the model, so copy what was there before: `{name: value.clone() for name, value in
            model.state_dict().items()}`.
        include: names of parameters or modules, or shell patterns; None is all floating-point parameters with two or
            more axes that both have (of a `Sharing`: its weights). Of a module it means those, too.
        path: a file to write the picture to; its ending says as what (.png, .svg, .pdf).

    Returns a figure of matplotlib that no window knows of.

    Raises `SparsewoodError` where no weight is common, shapes differ, `before` and `after` are the same tensors in
    memory, or matplotlib is missing; `UnknownName` for an `include` that means nothing.

    >>> figure = weight_sharing(torch.randn(4, 4), torch.ones(4, 4))
    >>> figure.axes[0].get_yscale(), figure.axes[0].get_title(loc="left").splitlines()[1]
    ('log', '16 entries, 16 -> 1 values')
    """
    require_matplotlib()
    pairs = _pairs(before, after, include)
    columns = max(1, min(len(pairs), round(math.sqrt(0.75 * len(pairs)))))
    rows = math.ceil(len(pairs) / columns)
    figure = new_figure(max(4.6, 3.7 * columns), 2.5 * rows + 0.7)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(pairs) :]:
        axes.remove()
    for axes, (name, (old, new)) in zip(grid.flat, pairs.items(), strict=False):
        _draw(axes, name, old, new)
    for axes in grid[:, 0]:
        axes.set_ylabel("entries", fontsize=8)
    for place in range(len(pairs) - columns, len(pairs)):
        grid.flat[place].set_xlabel("value", fontsize=8)
    _legend(figure)
    if path is not None:
        save_figure(figure, os.fspath(path))
    return figure


# ---------------------------------------------------------------- which weights


def _pairs(
    before: Weights, after: Weights, include: str | Sequence[str] | None
) -> dict[str, tuple[ValueCounts, ValueCounts]]:
    old, new = _weights(before, "before"), _weights(after, "after")
    common = [name for name in old if name in new]
    if include is None:
        chosen = [name for name in common if old[name].ndim > 1 or isinstance(before, Tensor)]
    else:
        chosen = _included({name: old[name] for name in common}, include)
    if not chosen:
        raise SparsewoodError(
            "before and after have no weight in common (a floating-point parameter with two or more axes). Before: "
            f"{', '.join(list(old)[:4]) or 'none'}. After: {', '.join(list(new)[:4]) or 'none'}."
        )
    if all(_same_memory(old[name], new[name]) for name in chosen):
        raise SparsewoodError(
            "before and after are the same tensors in memory, so there is no difference to see: share_weights writes "
            "into the model, and a state dict does not copy. Copy first: "
            "before = {name: value.clone() for name, value in model.state_dict().items()}."
        )
    for name in chosen:
        if old[name].shape != new[name].shape:
            raise SparsewoodError(
                f"{name!r} has shape {tuple(old[name].shape)} before and {tuple(new[name].shape)} after. Pass the same "
                "network before and after weight sharing."
            )
    return {name: (_counted(name, old[name], "before"), _counted(name, new[name], "after")) for name in chosen}


def _counted(name: str, weight: Tensor, when: str) -> ValueCounts:
    try:
        return value_counts(weight, most_points=MOST_POINTS)
    except SparsewoodError as error:
        raise SparsewoodError(f"{name!r}, {when}: {error}") from error


def _weights(given: Weights, which: str) -> dict[str, Tensor]:
    if isinstance(given, Tensor):
        return {"weight": given}
    if isinstance(given, Sharing):
        return {name: one.weight() for name, one in given.weights.items()}
    found = dict(given.named_parameters()) if isinstance(given, nn.Module) else given
    if not isinstance(found, Mapping):
        raise SparsewoodError(
            f"{which} must be a model, a state dict, a Sharing or a tensor. Got {type(given).__name__}."
        )
    return {name: one for name, one in found.items() if isinstance(one, Tensor) and one.is_floating_point()}


def _included(weights: Mapping[str, Tensor], include: str | Sequence[str]) -> list[str]:
    """Parameters by their own names; of modules and patterns the weights they cover, all they cover if none is one."""
    chosen: set[str] = set()
    selectors = [include] if isinstance(include, str) else include
    if not isinstance(selectors, Sequence) or not all(isinstance(one, str) for one in selectors):
        raise SparsewoodError(f"include must be names of parameters or modules, or shell patterns. Got {include!r}.")
    for selector in selectors:
        hits = [name for name in weights if names_match([name], selector)]
        if not hits:
            raise UnknownName.among("layer or parameter in include", selector, weights)
        matrices = [name for name in hits if weights[name].ndim > 1]
        chosen.update([selector] if selector in hits else matrices or hits)
    return [name for name in weights if name in chosen]


def _same_memory(one: Tensor, other: Tensor) -> bool:
    same = one.device == other.device and one.data_ptr() == other.data_ptr()
    return same and one.numel() > 0


# ---------------------------------------------------------------- drawing


def _draw(axes: Axes, name: str, old: ValueCounts, new: ValueCounts) -> None:
    axes.set_yscale("log")
    for one, color in ((old, BEFORE), (new, AFTER)):
        apart = one.values != 0
        values, counts = one.values[apart], one.counts[apart]
        if one.width is None:
            axes.vlines(values, 0.5, counts, color=color, linewidth=0.6, alpha=0.5)
            axes.scatter(values, counts, s=9, color=color, linewidths=0, alpha=0.5 if one is old else 1, zorder=3)
        else:
            axes.add_collection(_bins(values, counts, one.width, color))
    most = max(int(old.counts.max()), int(new.counts.max()))
    axes.set_ylim(0.6, 20 * most)  # room for what is said of zeros
    ends = [float(end) for one in (old, new) for end in (one.values[0], one.values[-1])]
    room = 0.05 * (max(ends) - min(ends)) or 0.05 * max(abs(ends[0]), 1e-3)
    axes.set_xlim(min(ends) - room, max(ends) + room)
    _draw_zeros(axes, old, new)
    changed = f"{old.distinct:,} -> {new.distinct:,} values"
    axes.set_title(f"{middle_cut(name, 44)}\n{old.entries:,} entries, {changed}", fontsize=7.5, loc="left")
    axes.tick_params(labelsize=6.5)
    axes.minorticks_off()
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.get_offset_text().set_fontsize(6.5)
    axes.grid(alpha=0.25)


def _bins(values: np.ndarray, counts: np.ndarray, width: float, color: str) -> PolyCollection:
    """A histogram as one drawing: hundreds of bars would take seconds for a network."""
    from matplotlib.collections import PolyCollection

    left, right, floor = values - width / 2, values + width / 2, np.full(len(values), 0.5)
    corners = [(left, floor), (left, counts), (right, counts), (right, floor)]
    boxes = np.stack([np.stack(corner, -1) for corner in corners], 1)
    return PolyCollection(list(boxes), color=color, alpha=0.5, linewidth=0)


def _draw_zeros(axes: Axes, old: ValueCounts, new: ValueCounts) -> None:
    for place, (one, color) in enumerate(((old, BEFORE), (new, AFTER))):
        if not one.zeros:
            continue
        axes.vlines(0, 0.5, one.zeros, color=color, linewidth=2.2 - place, zorder=2)
        axes.scatter([0], [one.zeros], s=26 - 10 * place, marker="D", color=color, zorder=4)
    if old.zeros or new.zeros:
        told = " -> ".join(f"{one.zeros:,} ({100 * one.zeros / one.entries:.3g} %)" for one in (old, new))
        axes.text(0.03, 0.95, f"zeros: {told}", transform=axes.transAxes, fontsize=6.5, va="top", color="0.25")


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], marker="o", linestyle="", color=BEFORE, label="before"),
        Line2D([], [], marker="o", linestyle="", color=AFTER, label="after"),
        Line2D([], [], marker="D", linestyle="", color="0.5", label="entries of zero"),
    ]
    figure.legend(handles=marks, loc="outside upper left", ncols=3, fontsize=8, frameon=False)
