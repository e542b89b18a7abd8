"""Which units are connected: the weights of all layers as one matrix, a block for each layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.parameters import entries, is_weight
from sparsewood.plot.panels import middle_cut
from sparsewood.plot.study_sheet import Path, finish
from sparsewood.report.plots import COLORS, new_figure, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from scipy.sparse import csr_array

__all__ = ["Adjacency", "adjacency", "connections"]

PIXELS = 1000
NAMED = 24  # blocks with their names beside the picture


@dataclass(frozen=True, eq=False)
class Adjacency:
    """Units and how they are connected.

    Attributes:
        matrix: scipy's sparse array [units, units], symmetric: 1 where two units are connected; or, not binary, how
            many taps of the kernel between them are left.
        blocks: what the rows are, in order: a name, the first row, and the row after the last.
    """

    matrix: csr_array
    blocks: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, eq=False)
class _Weight:
    """taps[o, i]: how many of the entries between output o and input i are left; inputs of its own group only."""

    name: str
    taps: np.ndarray
    groups: int
    spatial: bool


def connections(model_or_masks: nn.Module | Mapping[str, Tensor], *, binary: bool = True) -> Adjacency:
    """Which units are connected by weights that are not zero, or that masks keep.

    Units are the inputs of the first layer and the outputs of every layer, in the order of the weights. An input and an
    output are connected if any tap of the kernel between them is left, whichever it is. A layer's inputs are the
    outputs of the layer before it where the sizes agree; a linear layer that sees several places of each channel of a
    convolution (after flattening) is connected to the channel if any of them is. Where they do not agree, as at a
    branch, the inputs of the layer are a block of their own: which outputs they are is not known from weights alone.

    Args:
        model_or_masks: a model, of whose weights zeros are missing connections; or masks (True = kept), of weights
            with two or more axes, outputs first. Grouped and transposed convolutions are known as such in a model; of
            masks, only depthwise ones are.
        binary: whether all connections count 1, or as many as there are entries left between the units.

    Raises `SparsewoodError` where there is no weight.

    >>> found = connections({"a": torch.tensor([[True, False]]), "b": torch.tensor([[True], [False]])})
    >>> found.blocks, found.matrix.toarray().tolist()[2]
    ((('inputs', 0, 2), ('a', 2, 3), ('b', 3, 5)), [1, 0, 0, 1, 0])
    """
    from scipy.sparse import coo_array

    blocks: list[tuple[str, int, int]] = []
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    total, spatial = 0, False
    for weight in _weights(model_or_masks):
        outputs, inputs = len(weight.taps), weight.taps.shape[1] * weight.groups
        start, end = blocks[-1][1:] if blocks else (0, 0)
        places = _places(inputs, end - start, flattened=spatial and not weight.spatial)
        if not places:
            blocks.append((f"inputs of {weight.name}" if blocks else "inputs", total, total + inputs))
            start, places, total = total, 1, total + inputs
        row, column = np.nonzero(weight.taps)
        own = row // (outputs // weight.groups) * weight.taps.shape[1] + column  # a group sees its own inputs
        parts.append((total + row, start + own // places, weight.taps[row, column]))
        blocks.append((weight.name, total, total + outputs))
        total, spatial = total + outputs, weight.spatial
    if not parts:
        raise SparsewoodError("There is nothing to draw: no weight, or mask of one, with two or more axes was given.")
    rows, columns, counts = (np.concatenate(one) for one in zip(*parts, strict=True))
    half = coo_array((counts.astype(np.int64), (rows, columns)), shape=(total, total)).tocsr()  # adds what coincides
    if binary:
        half.data[:] = 1
    return Adjacency((half + half.T).tocsr(), tuple(blocks))


def adjacency(model_or_masks: nn.Module | Mapping[str, Tensor], *, binary: bool = True, path: Path = None) -> Figure:
    """The matrix of `connections` as a picture: a block for each layer, placed along the layers in order.

    Every unit is a row and a column. With more than 1,000 units a pixel stands for several, and its shade for the share
    of their pairs that are connected (the mean count where it is not binary); shades grow with the square root, so that
    few connections are seen. The matrix itself is sparse at any size. Lines separate layers.

    Args:
        model_or_masks, binary: as for `connections`.
        path: a file to write the picture to; its ending says as what (.png, .svg, .pdf).

    Returns a figure of matplotlib that no window knows of. Raises as `connections`, and if matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.colors import PowerNorm

    found = connections(model_or_masks, binary=binary)
    units = found.blocks[-1][2]
    image, scale = _binned(found.matrix, units)
    figure = new_figure(8.2, 6.8)
    axes = figure.subplots()
    top = float(image.max()) or 1.0
    shown = axes.imshow(image, cmap="Greys", norm=PowerNorm(0.5, 0, top), interpolation="nearest")
    for _, start, _ in found.blocks[1:]:
        axes.axhline(start / scale - 0.5, color=COLORS[5], linewidth=0.5)
        axes.axvline(start / scale - 0.5, color=COLORS[5], linewidth=0.5)
    named = [one for one in found.blocks if (one[2] - one[1]) / units > 0.012][:NAMED]
    middles = [(start + end) / 2 / scale - 0.5 for _, start, end in named]
    labels = [f"{middle_cut(name, 26)} ({end - start:,})" for name, start, end in named]
    axes.set_yticks(middles, labels, fontsize=7)
    names = [middle_cut(name, 18) for name, *_ in named]
    axes.set_xticks(middles, names, fontsize=7, rotation=40, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    what = "connected pairs" if binary else "entries left between pairs"
    edges = found.matrix.nnz // 2
    many = f"; a pixel is {scale:.3g} x {scale:.3g} units" if scale > 1 else ""
    axes.set_title(f"{units:,} units, {edges:,} connections{many}", fontsize=9, loc="left")
    if scale > 1 or not binary:
        bar = figure.colorbar(shown, ax=axes, shrink=0.6)
        bar.set_label(f"share of {what}" if binary else what, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return finish(figure, path)


def _places(inputs: int, size: int, *, flattened: bool) -> int:
    """How many inputs belong to each output of the layer before; 0 if the sizes do not agree.

    >>> _places(8, 8, flattened=False), _places(32, 8, flattened=True), _places(32, 8, flattened=False)
    (1, 4, 0)
    """
    agree = size and (inputs == size or (flattened and inputs % size == 0))
    return inputs // size if agree else 0


def _binned(matrix: csr_array, units: int) -> tuple[np.ndarray, float]:
    """At most `PIXELS` x `PIXELS` means over the matrix, and how many units a pixel has."""
    side = min(units, PIXELS)
    found = matrix.tocoo()
    row, column = (one.astype(np.int64) * side // units for one in found.coords)
    sums = np.bincount(row * side + column, weights=found.data, minlength=side * side).reshape(side, side)
    widths = np.bincount(np.arange(units, dtype=np.int64) * side // units, minlength=side)
    return sums / np.outer(widths, widths), units / side


def _weights(given: nn.Module | Mapping[str, Tensor]) -> Iterator[_Weight]:
    if isinstance(given, nn.Module):
        for entry in entries(given):
            if is_weight(entry):
                weight = entry.parameter.detach()
                yield _weight(entry.name, weight != 0, entry.groups, inputs_first=entry.inputs_first)
        return
    if not isinstance(given, Mapping):
        raise SparsewoodError(f"adjacency takes a model or masks. Got {type(given).__name__}.")
    before = 0
    for name, mask in given.items():
        if mask.ndim > 1:
            depthwise = mask.ndim > 2 and mask.shape[1] == 1 and len(mask) == before
            yield _weight(name, mask != 0, before if depthwise else 1, inputs_first=False)
            before = len(mask)


def _weight(name: str, left: Tensor, groups: int, *, inputs_first: bool) -> _Weight:
    taps = left.flatten(2).sum(2, dtype=torch.int32) if left.ndim > 2 else left.int()
    if inputs_first:  # [groups * inputs, outputs] to [groups * outputs, inputs]
        parts = taps.unflatten(0, (groups, -1)).transpose(1, 2)
        taps = parts.flatten(0, 1)
    return _Weight(name, taps.cpu().numpy(), groups, left.ndim > 2)
