"""What packing did, tensor by tensor: printed as a table, or read field by field."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsewood.errors import SparsewoodError
from sparsewood.structure.names import counted, middle

__all__ = ["PackReport", "PackedTensor"]

_WIDEST = 40


@dataclass(frozen=True)
class PackedTensor:
    """One tensor in a packed file.

    Args:
    name, dtype, shape: those of the tensor.
    scheme: how it is written: "constant", "planes", "codebook", "bitmap + ..." or "gaps + ...", "empty".
    bytes: in the file.
    raw_bytes: as they are in memory.
    nonzeros: entries that are not 0.
    distinct: different bit patterns among the entries, or among the parts of complex ones.
    predicted_bits: the least for this scheme by entropy, if symbols are coded one by one and tables cost nothing. A
        stream in which symbols repeat in patterns can take less.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scheme: str
    bytes: int
    raw_bytes: int
    nonzeros: int
    distinct: int
    predicted_bits: float

    @property
    def entries(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class PackReport:
    """A packed file, in numbers.

    Args:
    tensors: in the order of the file; what has several names is there once.
    header_bytes: what is no tensor: names, shapes, the plan, the checksum.
    aliases: further names of tensors.
    """

    tensors: tuple[PackedTensor, ...]
    header_bytes: int
    aliases: int = 0

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return self.header_bytes + sum(one.bytes for one in self.tensors)

    @property
    def raw_bytes(self) -> int:
        """The state dict's tensors as they are in memory, each once."""
        return sum(one.raw_bytes for one in self.tensors)

    @property
    def predicted_bytes(self) -> float:
        """The sum of `predicted_bits`, and the header."""
        return self.header_bytes + sum(one.predicted_bits for one in self.tensors) / 8

    @property
    def ratio(self) -> float:
        """`raw_bytes` over `bytes`."""
        return self.raw_bytes / self.bytes

    def __repr__(self) -> str:
        return f"PackReport({counted(len(self.tensors), 'tensor')}, {self.raw_bytes:,} -> {self.bytes:,} bytes)"

    def __str__(self) -> str:
        return self.table()

    def table(self, most: int = 40) -> str:
        """A line for each of the `most` tensors that take most bytes, in the order of the file, and the totals.

        >>> weight = PackedTensor("fc.weight", "float32", (10, 100), "codebook", 520, 4000, 1000, 16, 4010.5)
        >>> print(PackReport((weight,), 130).table())
        tensor     scheme    entries  non-zero  distinct  bits/entry  predicted  bytes    raw  ratio
        fc.weight  codebook    1,000     1,000        16        4.16       4.01    520  4,000   7.69
        header                                                                     130
        all                    1,000     1,000                  5.20       5.05    650  4,000   6.15
        """
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise SparsewoodError(f"most must be a whole number >= 1. Got {most!r}.")
        largest = set(sorted(range(len(self.tensors)), key=lambda i: (-self.tensors[i].bytes, i))[:most])
        rows = [_HEADERS, *(_row(one) for i, one in enumerate(self.tensors) if i in largest)]
        others = [one for i, one in enumerate(self.tensors) if i not in largest]
        if others:
            rows.append((f"{counted(len(others), 'more tensor')}", "", *_sums(others, 0)))
        rows.append(("header", "", "", "", "", "", "", f"{self.header_bytes:,}", "", ""))
        rows.append(("all", "", *_sums(self.tensors, self.header_bytes)))
        return _aligned(rows)


_HEADERS = (
    "tensor", "scheme", "entries", "non-zero", "distinct", "bits/entry", "predicted", "bytes", "raw", "ratio",
)  # fmt: skip


def _row(one: PackedTensor) -> tuple[str, ...]:
    entries, nonzeros, _, *rest = _sums([one], 0)
    return middle(one.name, _WIDEST), one.scheme, entries, nonzeros, f"{one.distinct:,}", *rest


def _sums(ones: list[PackedTensor] | tuple[PackedTensor, ...], more: int) -> tuple[str, ...]:
    """Entries to ratio, with `more` bytes beside those of the tensors."""
    entries, size = sum(one.entries for one in ones), sum(one.bytes for one in ones) + more
    raw, bits = sum(one.raw_bytes for one in ones), sum(one.predicted_bits for one in ones) + 8 * more
    per_entry = (f"{8 * size / entries:.2f}", f"{bits / entries:.2f}") if entries else ("", "")
    ratio = f"{raw / size:.2f}" if size else ""
    nonzeros = sum(one.nonzeros for one in ones)
    return f"{entries:,}", f"{nonzeros:,}", "", *per_entry, f"{size:,}", f"{raw:,}", ratio


def _aligned(rows: list[tuple[str, ...]]) -> str:
    """Columns two blanks apart, names and schemes to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
