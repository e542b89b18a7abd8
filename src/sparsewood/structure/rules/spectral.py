"""Fourier transforms: they mix the positions of the axes that are transformed, and treat all others alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sparsewood.structure.rules import rule

if TYPE_CHECKING:
    from sparsewood.structure.log import Op
    from sparsewood.structure.tracer import Tracer

__all__: list[str] = []

aten = torch.ops.aten


@rule(aten._fft_r2c, aten._fft_c2r, aten._fft_c2c, family="pointwise")
def _fourier(t: Tracer, op: Op) -> None:
    """Linear along the transformed axes, so zeros stay zeros elsewhere; a transformed axis cannot shrink."""
    x = op.args[0]
    axes = {axis % x.dim() for axis in op.args[1]}
    rows = list(t.rows(x))
    for axis in axes:
        t.freeze(rows[axis], "a Fourier transform mixes its positions")
        rows[axis] = None
    t.set(op.out, rows, t.zero(x))
