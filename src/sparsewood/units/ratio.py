"""How far the largest of several responses stands out."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["contrast"]


def contrast(largest: Tensor, other: Tensor) -> Tensor:
    """(largest - other) / (largest + other) for numbers >= 0, in [0, 1]; 0 where both are 0.

    >>> contrast(torch.tensor([1.0, 3.0, 2.0, 0.0]), torch.tensor([0.0, 1.0, 2.0, 0.0]))
    tensor([1.0000, 0.5000, 0.0000, 0.0000])
    """
    total = largest + other
    return torch.where(total > 0, (largest - other) / torch.where(total > 0, total, 1.0), 0.0)
