"""How much of each layer is gone: a bar for each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from sparsewood.errors import SparsewoodError
from sparsewood.parameters import entries, is_raw, is_weight
from sparsewood.plot.panels import middle_cut
from sparsewood.report.plots import COLORS, new_figure, require_matplotlib, save_figure
from sparsewood.snapshot import untouched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["layer_sparsity"]

ROW = 0.19  # inches
LETTERS = 48


@dataclass(frozen=True)
class _Layer:
    name: str
    entries: int
    kept: int

    @property
    def sparsity(self) -> float:
        return 1 - self.kept / self.entries if self.entries else 0.0


def layer_sparsity(masks: Mapping[str, Tensor] | nn.Module, *, path: str | os.PathLike[str] | None = None) -> Figure:
    """For each layer, from the first at the top to the last, which share is gone: 1 - kept / entries.

    Beside each bar stand the numbers of entries that are kept and of all; a dashed line shows the sparsity of all
    layers together.

    Args:
        masks: `Masks`, or a mapping from names to boolean tensors, True = kept; or a model or a state dict, of which
            zeros count as gone: of all its weights, as layers use them, also where they compute them from other
            parameters (of a state dict: floating-point tensors with two or more axes).
        path: a file to write the picture to; its ending says as what (.png, .svg, .pdf).

    Returns a figure of matplotlib that no window knows of. Raises `SparsewoodError` where there is no layer, or
    matplotlib is missing.

    >>> figure = layer_sparsity({"a": torch.tensor([True, False]), "b": torch.tensor([True] * 6)})
    >>> [float(bar.get_width()) for bar in figure.axes[0].patches], figure.axes[0].get_title(loc="left")
    ([50.0, 0.0], '7 of 8 entries kept, sparsity 12.50 %')
    """
    require_matplotlib()
    layers = _layers(masks)
    if not layers:
        raise SparsewoodError(
            "There is nothing to draw: no boolean mask, and no weight (floating-point, two or more axes) was given."
        )
    figure = new_figure(8.4, 1.1 + ROW * len(layers))
    axes = figure.subplots()
    whole = _Layer("", sum(one.entries for one in layers), sum(one.kept for one in layers))
    rows = range(len(layers))
    axes.barh(rows, [100 * one.sparsity for one in layers], 0.72, color=COLORS[0], zorder=2)
    axes.axvline(100 * whole.sparsity, color=COLORS[1], linestyle="--", linewidth=1.2, zorder=3, label="all layers")
    axes.set_yticks(rows, [middle_cut(one.name, LETTERS) for one in layers], fontsize=7)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("sparsity [%]", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    numbers = axes.secondary_yaxis("right")
    told = [f"{one.kept:,} of {one.entries:,}" for one in layers]
    numbers.set_yticks(rows, told, fontsize=7)
    numbers.tick_params(length=0)
    numbers.set_ylabel("kept", fontsize=8)
    kept = f"{whole.kept:,} of {whole.entries:,} entries kept, sparsity {100 * whole.sparsity:.2f} %"
    axes.set_title(kept, fontsize=9, loc="left")
    figure.legend(loc="outside upper right", fontsize=8, frameon=False)
    if path is not None:
        save_figure(figure, os.fspath(path))
    return figure


def _layers(masks: Mapping[str, Tensor] | nn.Module) -> list[_Layer]:
    if isinstance(masks, nn.Module):
        with untouched(masks), torch.no_grad():
            return [_layer(name, weight) for name, weight in _weights(masks)]
    elif isinstance(masks, Mapping):
        found = {name: one for name, one in masks.items() if _counts(one)}
    else:
        raise SparsewoodError(f"layer_sparsity takes masks, a model or a state dict. Got {type(masks).__name__}.")
    return [_layer(name, one) for name, one in found.items()]


def _layer(name: str, kept: Tensor) -> _Layer:
    return _Layer(name, kept.numel(), int(kept.count_nonzero()))


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights that layers use: of those that compute theirs from parameters, what they compute."""
    seen: set[str] = set()
    for entry in entries(model):
        if is_weight(entry):
            yield entry.name, entry.parameter
        elif is_raw(entry) and entry.parameter.ndim > 1:
            owner, leaf = entry.module_name, entry.leaf.rpartition("_")[0]
            if isinstance(entry.module, ParametrizationList):  # layer.parametrizations.weight
                owner, _, leaf = owner.rpartition(".")
                owner = owner.removesuffix("parametrizations").removesuffix(".")
            name = f"{owner}.{leaf}" if owner else leaf
            if name not in seen:
                seen.add(name)
                yield name, getattr(model.get_submodule(owner), leaf)


def _counts(one: object) -> bool:
    return isinstance(one, Tensor) and (one.dtype == torch.bool or (one.is_floating_point() and one.ndim > 1))
