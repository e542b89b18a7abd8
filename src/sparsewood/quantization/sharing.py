"""What weight sharing leaves: for each weight a codebook, and which of its values every entry has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SharedWeight", "Sharing"]


@dataclass(frozen=True, eq=False)
class SharedWeight:
    """One weight as a codebook and indices: weight[i] = codebook[indices[i]].

    Attributes:
        codebook: [values], ascending, of the weight's dtype; [channels, values] where each output channel has its own,
            of which those with fewer values repeat their last. Where the weight has zeros, a 0 comes before the others.
        indices: of the weight's shape; uint8 for up to 256 values, else int16 or int32.
        channels: the row of the codebook of each entry, in a shape that broadcasts to the weight's; None for one row.
        zeros: entries that were zero, or masked. They have index 0, and stay zero.
        squared_error: sum (weight after - weight before)^2; masked entries do not count.
        squares: sum (weight before)^2, likewise.
        unique: how many distinct values other than 0 the weight has (for codebooks of channels, the most of any).
    """

    codebook: Tensor
    indices: Tensor
    channels: Tensor | None
    zeros: int
    squared_error: float
    squares: float
    unique: int

    @property
    def relative_error(self) -> float:
        """squared_error / squares; 0 where nothing is left."""
        return self.squared_error / self.squares if self.squares else 0.0

    @property
    def values(self) -> int:
        """Size of the codebook, of each channel, with the zero."""
        return self.codebook.shape[-1]

    @property
    def bits(self) -> int:
        """How many bits tell the values apart: ceil(log2(values))."""
        return (self.values - 1).bit_length()

    def cells(self) -> Tensor:
        """The position of each entry's value in `codebook.flatten()`, int32 [entries], row-major."""
        cells = self.indices.int()
        if self.channels is not None:
            cells = cells + (self.channels * self.values).int()
        return cells.reshape(-1)

    def counts(self) -> Tensor:
        """How many entries have each value, int64 of the codebook's shape; they add up to all entries.

        >>> one = SharedWeight(torch.tensor([0.0, 2.0]), torch.tensor([[1, 0, 1]]).byte(), None, 1, 0.0, 8.0, 1)
        >>> one.counts(), one.weight()
        (tensor([1, 2]), tensor([[2., 0., 2.]]))
        """
        return torch.bincount(self.cells(), minlength=self.codebook.numel()).reshape(self.codebook.shape)

    def weight(self, codebook: Tensor | None = None) -> Tensor:
        """The weight that the indices make of `codebook`, or of another one of its shape (rounded, tuned)."""
        codebook = self.codebook if codebook is None else codebook
        flat = codebook.reshape(-1)
        return flat.index_select(0, self.cells().to(flat.device)).reshape(self.indices.shape)


@dataclass(frozen=True, eq=False)
class Sharing:
    """What `share_weights` did to each weight, by parameter name."""

    weights: Mapping[str, SharedWeight]

    @property
    def relative_error(self) -> float:
        """The squared errors of all weights over their sums of squares before; 0 where nothing is left."""
        before = sum(one.squares for one in self.weights.values())
        return sum(one.squared_error for one in self.weights.values()) / before if before else 0.0

    def __str__(self) -> str:
        heads = ("weight", "entries", "zeros", "values", "bits", "relative error")
        rows = [
            (
                name,
                f"{one.indices.numel():,}",
                f"{one.zeros:,}",
                f"{one.values:,}",
                str(one.bits),
                f"{one.relative_error:.3g}",
            )
            for name, one in self.weights.items()
        ]
        widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
        lines = []
        for name, *cells in (heads, *rows):
            lines.append("  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]))
        return "\n".join(lines)
