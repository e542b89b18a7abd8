"""Convolutions: input channels go with the weight's input axis, output channels are its output axis.

With groups, both channel axes are rectangles (groups x channels of a group): the groups of input and output go
together, and so do the input's places in a group and the weight's input axis.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sparsewood.structure.labels import Row
from sparsewood.structure.rules import rule
from sparsewood.structure.rules.contraction import Factor, sum_over

if TYPE_CHECKING:
    from sparsewood.structure.log import Op
    from sparsewood.structure.tracer import Tracer

__all__: list[str] = []

aten = torch.ops.aten


_ONE_BACKEND = (
    aten.mkldnn_convolution,
    aten.cudnn_convolution_relu,
    aten.miopen_convolution,
    aten.miopen_convolution_relu,
    aten.miopen_depthwise_convolution,
)


@rule(aten.convolution, aten._convolution, aten.convolution_overrideable, family="contraction")
def _convolution(t: Tracer, op: Op) -> None:
    """Any convolution, as PyTorch's modules and functions call it."""
    _convolve(t, op, op.args[2], op.args[8], transposed=op.args[6])


@rule(*_ONE_BACKEND, family="contraction")
def _backend_convolution(t: Tracer, op: Op) -> None:
    """A convolution of one backend; relu keeps zeros."""
    _convolve(t, op, op.args[2], op.args[6])


@rule(aten.cudnn_convolution, family="contraction")
def _cudnn_convolution(t: Tracer, op: Op) -> None:
    """A convolution without bias."""
    _convolve(t, op, None, op.args[5])


@rule(aten.cudnn_convolution_transpose, family="contraction")
def _cudnn_convolution_transpose(t: Tracer, op: Op) -> None:
    """A transposed convolution without bias."""
    _convolve(t, op, None, op.args[6], transposed=True)


@rule(aten.conv_depthwise3d, aten._conv_depthwise2d, family="contraction")
def _conv_depthwise(t: Tracer, op: Op) -> None:
    """One group for each input channel."""
    _convolve(t, op, op.args[3], op.args[0].shape[1])


_ONE_GROUP = (aten._slow_conv2d_forward, aten.slow_conv3d_forward, aten.slow_conv_dilated2d, aten.slow_conv_dilated3d)


@rule(*_ONE_GROUP, family="contraction")
def _slow_conv(t: Tracer, op: Op) -> None:
    """One group for all channels."""
    _convolve(t, op, op.get("bias", 3), 1)


def _convolve(t: Tracer, op: Op, bias: Tensor | None, groups: int, *, transposed: bool = False) -> None:
    x, weight = op.args[:2]
    if x.dim() != weight.dim():
        raise ValueError(f"a convolution of {x.dim()} with {weight.dim()} axes")
    for row in t.rows(x)[2:]:
        t.freeze(row, "windows move along it")
    kernel = [row for row in t.rows(weight)[2:] if row is not None]
    if kernel:
        t.freeze(np.concatenate(kernel), "it is a place in a kernel")
    if groups == 1:
        row, zero = _plain(t, x, weight, transposed=transposed)
    elif transposed:
        row, zero = _grouped_transposed(t, x, weight, groups)
    else:
        row, zero = _grouped(t, x, weight, groups)
    batch, batch_zero = t.rows(x)[0], t.zero(x)[0]
    if bias is not None:
        row, zero, batch_zero = t.unite(row, t.rows(bias)[0]), zero and t.zero(bias)[0], False
    space = (None,) * (x.dim() - 2)
    t.set(op.out, (batch, row, *space), (batch_zero, zero, *(False for _ in space)))
    _cost(t, x, weight, op.out, transposed=transposed)


def _cost(t: Tracer, x: Tensor, weight: Tensor, out: Tensor, *, transposed: bool) -> None:
    """Every weight element works once at every output position; of a transposed convolution, at every input position.

    The weight's second axis has one position for each channel of a group.
    """
    base = x if transposed else out
    batch, channels = t.rows(base)[:2]
    inner = t.rows(weight)[1] if weight.shape[1] > 1 else None
    places, kernel = prod(base.shape[2:]), prod(weight.shape[2:])
    sizes = (base.shape[0], places, base.shape[1], weight.shape[1], kernel)
    t.cost(*zip(sizes, (batch, None, channels, inner, None), strict=True))


def _plain(t: Tracer, x: Tensor, weight: Tensor, *, transposed: bool) -> tuple[Row, bool]:
    """The row of the output channels, and whether it is zero at masked ones, before the bias."""
    made, read = (1, 0) if transposed else (0, 1)
    sum_over(t, Factor.of(t, x, 1), Factor.of(t, weight, read))
    return t.rows(weight)[made], t.zero(weight)[made]


def _grouped(t: Tracer, x: Tensor, weight: Tensor, groups: int) -> tuple[Row, bool]:
    """Weight [groups * made, read, ...]: output channel o reads the input channels of group o // made."""
    made, read = weight.shape[0] // groups, weight.shape[1]
    row, inner = t.rows(weight)[:2]
    blocks, places = t.split(t.rows(x)[1], (groups, read))
    out_blocks, _ = t.split(row, (groups, made))
    t.unite(blocks, out_blocks)
    _sum_in_groups(t, x, weight, places, inner, read, axis=1)
    if made == read == 1:
        return row, t.zero(weight)[0] or t.zero(x)[1]
    return row, t.zero(weight)[0]


def _grouped_transposed(t: Tracer, x: Tensor, weight: Tensor, groups: int) -> tuple[Row, bool]:
    """Weight [groups * read, made, ...]: the outputs are `made` channels for every group."""
    read, made = weight.shape[0] // groups, weight.shape[1]
    channels = t.unite(t.rows(x)[1], t.rows(weight)[0])
    if read > 1:
        _sum_in_groups(t, x, weight, channels, t.rows(weight)[0], read, axis=0)
    blocks, _ = t.split(channels, (groups, read))
    inner, zero = t.rows(weight)[1], t.zero(weight)
    if made == 1:
        t.freeze(inner, "it is the only position of its axis")
        return blocks, zero[0] or t.zero(x)[1]
    return t.merge((blocks, inner), (groups, made)), zero[1] and (zero[0] or t.zero(x)[1])


def _sum_in_groups(t: Tracer, x: Tensor, weight: Tensor, places: Row, inner: Row, read: int, *, axis: int) -> None:
    """Couple `inner`, the weight's input axis, with the input's places in a group, or keep it if there is but one."""
    if read == 1:
        t.freeze(inner, "it is the only position of its axis")
        return
    sum_over(t, Factor.of(t, x, 1)._replace(row=places), Factor.of(t, weight, axis)._replace(row=inner))


@rule(aten.conv_tbc, family="contraction")
def _conv_tbc(t: Tracer, op: Op) -> None:
    """Input [time, batch, channels], weight [kernel, input channels, output channels]."""
    x, weight, bias = op.args[:3]
    t.freeze(t.rows(x)[0], "windows move along it")
    t.freeze(t.rows(weight)[0], "it is a place in a kernel")
    read = sum_over(t, Factor.of(t, x, 2), Factor.of(t, weight, 1))
    row = t.unite(t.rows(weight)[2], t.rows(bias)[0])
    t.set(op.out, (None, t.rows(x)[1], row), (False, False, t.zero(weight)[2] and t.zero(bias)[0]))
    places = [(size, None) for size in (*op.out.shape[:2], weight.shape[0])]
    t.cost(*places, (x.shape[2], read), (op.out.shape[2], row))
