"""Windows, resampling and sampling: they move along the last axes and leave batch and channels alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from sparsewood.structure.axes import tensors_in
from sparsewood.structure.labels import Row
from sparsewood.structure.log import Op
from sparsewood.structure.rules import rule
from sparsewood.structure.rules.pointwise import present
from sparsewood.structure.tracer import Tracer

__all__: list[str] = []

aten = torch.ops.aten

_WINDOWS = "windows move along it"

_SPATIAL_AXES: dict[int, str] = {
    1: "avg_pool1d adaptive_avg_pool1d upsample_nearest1d _upsample_nearest_exact1d upsample_linear1d",
    2: """
        avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d max_pool2d_with_indices adaptive_max_pool2d
        upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa
        _upsample_bicubic2d_aa _upsample_lanczos2d_aa
    """,
    3: """
        avg_pool3d _adaptive_avg_pool3d adaptive_avg_pool3d max_pool3d_with_indices adaptive_max_pool3d
        upsample_nearest3d _upsample_nearest_exact3d upsample_trilinear3d
    """,
}


def _windowed(t: Tracer, op: Op, *, axes: int) -> None:
    """Pooling and resampling: the last axes stay; a channel of zeros gives zeros."""
    x = op.args[0]
    rows, zero = list(t.rows(x)), list(t.zero(x))
    for axis in range(x.dim() - axes, x.dim()):
        t.freeze(rows[axis], _WINDOWS)
        rows[axis] = None
    results = list(tensors_in((op.out,)))
    t.set(results[0], rows, zero)
    for indices in results[1:]:
        t.set(indices, rows)


for _axes, _names in _SPATIAL_AXES.items():
    rule(*present(_names), family="movement")(partial(_windowed, axes=_axes))


@rule(aten.max_unpool2d, aten.max_unpool3d, family="movement")
def _max_unpool(t: Tracer, op: Op) -> None:
    """Values go to the places that `indices` names, channel by channel: both are united there."""
    x, indices = op.args[:2]
    axes = 2 if op.func.overloadpacket is aten.max_unpool2d else 3
    rows: list[Row] = []
    for axis, (row, other) in enumerate(zip(t.rows(x), t.rows(indices), strict=True)):
        if axis < x.dim() - axes:
            rows.append(t.unite(row, other))
        else:
            t.freeze(row, _WINDOWS)
            t.freeze(other, _WINDOWS)
            rows.append(None)
    t.set(op.out, rows, t.zero(x))


# ---------------------------------------------------------------- unfold and fold


def _places(kernel: Any) -> int:
    return int(np.prod(kernel))


@rule(aten.im2col, family="movement")
def _unfold(t: Tracer, op: Op) -> None:
    """Windows become columns: channel c owns the positions c * k ... c * k + k - 1, k places in a window."""
    x, kernel = op.args[:2]
    rows, zero = list(t.rows(x)), t.zero(x)
    for row in rows[-2:]:
        t.freeze(row, _WINDOWS)
    channels = rows[-3]
    columns = None if channels is None else np.repeat(channels, _places(kernel))
    t.set(op.out, (*rows[:-3], columns, None), (*zero[:-3], zero[-3], False))


@rule(aten.col2im, family="movement")
def _fold(t: Tracer, op: Op) -> None:
    """Columns are added up into windows: the places of a window stay, all of a channel go together."""
    x, kernel = op.args[0], op.args[2]
    rows, zero = list(t.rows(x)), t.zero(x)
    k = _places(kernel)
    channels, places = t.split(rows[-2], (x.shape[-2] // k, k))
    t.freeze(places, "it is a place in a window")
    t.freeze(rows[-1], _WINDOWS)
    t.set(op.out, (*rows[:-2], channels, None, None), (*zero[:-2], zero[-2], False, False))


# ---------------------------------------------------------------- sampling at coordinates


@rule(aten.grid_sampler_2d, aten.grid_sampler_3d, *present("_grid_sampler_2d_cpu_fallback"), family="movement")
def _grid_sample(t: Tracer, op: Op) -> None:
    """The grid says where: its axes make the new spatial axes, its last one (x, y) and the old spatial ones stay."""
    x, grid = op.args[:2]
    rows, places = t.rows(x), t.rows(grid)
    for row in rows[2:]:
        t.freeze(row, "it is sampled at coordinates")
    t.freeze(places[-1], "it holds coordinates")
    zero = [False] * op.out.dim()
    zero[1] = t.zero(x)[1]
    t.set(op.out, (t.unite(rows[0], places[0]), rows[1], *places[1:-1]), zero)


@rule(aten.affine_grid_generator, family="movement")
def _affine_grid(t: Tracer, op: Op) -> None:
    """Coordinates from matrices, in sizes given as numbers: all stays."""
    t.barrier(op.args[:1], "it makes coordinates in sizes given as numbers")
    t.set(op.out, (None,) * op.out.dim())
