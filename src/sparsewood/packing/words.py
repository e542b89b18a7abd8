"""Tensors as unsigned integers of the same bits, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["DTYPES", "Kind", "kind_of", "tensor_of", "words_of"]

_NAMES = (
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128",
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
)  # fmt: skip

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _NAMES if hasattr(torch, name)}
"""What can be packed, by the name that the file has for it."""


@dataclass(frozen=True)
class Kind:
    """How the numbers of a dtype are laid out: `width` bytes a word, `parts` words (2 of complex ones); `floating`: a
    sign, an exponent and a fraction, from the high bit on, in at least two bytes."""

    width: int
    parts: int
    floating: bool

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype of its words."""
        return np.dtype(f"u{self.width}")


def kind_of(dtype: torch.dtype) -> Kind:
    """The layout of a dtype.

    >>> kind_of(torch.complex64), kind_of(torch.bool)
    (Kind(width=4, parts=2, floating=True), Kind(width=1, parts=1, floating=False))
    """
    parts = 2 if dtype.is_complex else 1
    width = dtype.itemsize // parts
    return Kind(width, parts, width > 1 and (dtype.is_floating_point or dtype.is_complex))


def words_of(tensor: Tensor) -> np.ndarray:
    """The bits of a contiguous tensor, row by row, as unsigned integers.

    >>> words_of(torch.tensor([1.0, -0.0])).tolist() == [0x3F800000, 0x80000000]
    True
    """
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().view(kind_of(tensor.dtype).dtype)


def tensor_of(words: np.ndarray, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """The tensor of these bits.

    >>> tensor_of(np.array([0x3F800000], np.uint32), torch.float32, [])
    tensor(1.)
    """
    own = np.require(words, requirements=["C", "W"])
    return torch.from_numpy(own.view(np.uint8)).view(dtype).reshape(tuple(shape))
