"""Numbers as small integers: a scale, and the integer that stands for zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.errors import SparsewoodError

__all__ = ["Affine", "affine_of", "affine_parameters", "dequantize", "quantize"]

_MOST_BITS = 8


@dataclass(frozen=True, eq=False)
class Affine:
    """How numbers become integers from `lowest` to `highest`: x = (q - zero_point) * scale.

    Attributes:
        scale: positive; a scalar, or [channels] along `axis`.
        zero_point: int32, shaped like `scale`, the integer of the real number 0; 0 where the range is symmetric.
        lowest, highest: the integers that there are, both included.
        axis: of the tensor's axes the one that has a scale for each position; None for one scale.
    """

    scale: Tensor
    zero_point: Tensor
    lowest: int
    highest: int
    axis: int | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What holds the integers: int8, or uint8 where none is negative."""
        return torch.uint8 if self.lowest >= 0 else torch.int8

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The least and the largest real number that an integer stands for."""
        zero = self.zero_point.to(self.scale.dtype)
        return (self.lowest - zero) * self.scale, (self.highest - zero) * self.scale


def affine_parameters(
    low: Tensor | float, high: Tensor | float, *, bits: int = 8, symmetric: bool = False, signed: bool = True
) -> Affine:
    """Scale and zero point for numbers from `low` to `high`, of a tensor or of each of its channels.

        affine:     scale = (high - low) / (2^bits - 1)             zero point = round(lowest - low / scale)
        symmetric:  scale = max(|low|, |high|) / (2^(bits-1) - 1)   zero point = 0, as many integers on each side

    The range is widened to have 0 in it, so that 0 is exactly an integer: zeros stay zeros. What has no width, all
    zeros, has the scale 1. Computed in float64; the scale is float32, or float64 for limits of float64.

    Args:
        low, high: scalars, or [channels], finite, low <= high.
        bits: 2 to 8.
        signed: integers from -2^(bits-1), or from 0 (`signed=False`, for an affine range only).

    Raises `SparsewoodError` for limits that are not finite or the wrong way round, and for bits that cannot be.

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", https://arxiv.org/abs/1712.05877, section 2.1.

    >>> one = affine_parameters(-1.0, 3.0)
    >>> round(float(one.scale) * 255, 5), int(one.zero_point)
    (4.0, -64)
    >>> both = affine_parameters(-1.0, 3.0, symmetric=True)
    >>> round(float(both.scale) * 127, 5), int(both.zero_point)
    (3.0, 0)
    """
    if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= _MOST_BITS:
        raise SparsewoodError(f"affine_parameters: bits must be a whole number from 2 to {_MOST_BITS}. Got {bits!r}.")
    if symmetric and not signed:
        raise SparsewoodError("affine_parameters: a symmetric range has negative integers. Use signed=True.")
    low, high = torch.as_tensor(low), torch.as_tensor(high)
    dtype = torch.float64 if torch.float64 in (low.dtype, high.dtype) and low.ndim else torch.float32
    low, high = low.detach().double(), high.detach().double()
    if not bool(low.isfinite().all() & high.isfinite().all() & (low <= high).all()):
        raise SparsewoodError(
            "affine_parameters: low and high must be finite, and low <= high. "
            f"Got low={low.min().item():g}, high={high.max().item():g}."
        )
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    half = 2 ** (bits - 1)
    if symmetric:
        lowest, highest = 1 - half, half - 1
        scale = torch.maximum(-low, high) / highest
    else:
        lowest, highest = (-half, half - 1) if signed else (0, 2 * half - 1)
        scale = (high - low) / (highest - lowest)
    empty = scale < torch.finfo(dtype).tiny
    scale = torch.where(empty, torch.ones_like(scale), scale)
    zero_point = torch.zeros_like(scale)
    if not symmetric:
        # What has no width is all zeros, and any integer may stand for them: 0, as elsewhere.
        zero_point = torch.where(empty, zero_point, (lowest - low / scale).round().clamp(lowest, highest))
    return Affine(scale.to(dtype), zero_point.int(), lowest, highest)


def affine_of(
    tensor: Tensor, *, bits: int = 8, symmetric: bool = False, signed: bool = True, axis: int | None = None
) -> Affine:
    """`affine_parameters` for the range of a tensor, or of each position along `axis` of it.

    Raises `SparsewoodError` for a tensor that is empty or not finite.

    >>> weight = torch.tensor([[1.0, -1.0], [127.0, 5.0]])
    >>> affine_of(weight, symmetric=True, axis=0).scale.tolist()[1]
    1.0
    """
    if not tensor.numel() or not bool(tensor.isfinite().all()):
        what = "has no entries" if not tensor.numel() else "has entries that are not finite"
        raise SparsewoodError(f"A tensor of shape {tuple(tensor.shape)} {what}: there is no range to quantise.")
    rows = tensor.detach().reshape(1, -1) if axis is None else tensor.detach().movedim(axis, 0).flatten(1)
    low, high = rows.amin(1), rows.amax(1)
    found = affine_parameters(low, high, bits=bits, symmetric=symmetric, signed=signed)
    if axis is None:
        return Affine(found.scale[0], found.zero_point[0], found.lowest, found.highest)
    return Affine(found.scale, found.zero_point, found.lowest, found.highest, axis % tensor.ndim)


def quantize(tensor: Tensor, affine: Affine) -> Tensor:
    """The integers, as int8 or uint8: q = clamp(round(x / scale) + zero_point, lowest, highest), halves to even.

    For x within the range |x - dequantize(q)| <= scale / 2, and 0 becomes the zero point.

    >>> affine = affine_parameters(-1.0, 3.0)
    >>> quantize(torch.tensor([-1.0, 0.0, 3.0, 9.0]), affine)
    tensor([-128,  -64,  127,  127], dtype=torch.int8)
    """
    scale, zero_point = _spread(affine, tensor)
    tensor = tensor.to(torch.promote_types(tensor.dtype, scale.dtype))  # bfloat16 has no 127.5
    return ((tensor / scale).round() + zero_point).clamp(affine.lowest, affine.highest).to(affine.dtype)


def dequantize(integers: Tensor, affine: Affine) -> Tensor:
    """The numbers that the integers stand for, of the scale's type: x = (q - zero_point) * scale.

    >>> dequantize(torch.tensor([0, 10], dtype=torch.int8), affine_parameters(-127.0, 127.0, symmetric=True))
    tensor([ 0., 10.])
    """
    scale, zero_point = _spread(affine, integers)
    return (integers.to(scale.dtype) - zero_point) * scale


def _spread(affine: Affine, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point in shapes that broadcast to the tensor's."""
    scale, zero_point = affine.scale.to(tensor.device), affine.zero_point.to(tensor.device)
    if affine.axis is None:
        return scale, zero_point
    shape = [1] * tensor.ndim
    shape[affine.axis] = -1
    return scale.reshape(shape), zero_point.reshape(shape)
