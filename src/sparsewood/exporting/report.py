"""What an export wrote, and how far it is from the network: printed as a table, or read field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparsewood.structure.names import counted

__all__ = ["Difference", "ExportReport", "Signature", "columns"]

_LINES = 12
"""Kinds of operators in the table."""


@dataclass(frozen=True)
class Signature:
    """One tensor that goes in or comes out; open axes of its shape have names."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Difference:
    """The largest difference between the file and the network on some inputs.

    `relative` is over the largest absolute value of the output that it is in (1 if that is 0).
    """

    inputs: str
    batch: int | None
    absolute: float
    relative: float


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Args:
    path: the file; `files` are this and those that belong to it.
    format: "onnx", "pt2", "safetensors" or "pt".
    bytes: of all files.
    tensors: how many it holds.
    opset: of ONNX, otherwise None.
    operators: how often each occurs; nothing for a state dict, which has none.
    inputs, outputs: what goes in and comes out.
    dynamic_batch: whether the batch is open.
    engine: what ran the file for the comparison, "" if nothing did.
    differences: for each set of inputs that was tried; empty with check=False.
    tolerance: how large a relative difference was allowed.
    notes: what could not be tried, and why.
    """

    path: Path
    format: str
    bytes: int
    tensors: int
    files: tuple[Path, ...]
    opset: int | None = None
    operators: Mapping[str, int] = field(default_factory=dict)
    inputs: tuple[Signature, ...] = ()
    outputs: tuple[Signature, ...] = ()
    dynamic_batch: bool = False
    engine: str = ""
    differences: tuple[Difference, ...] = ()
    tolerance: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def max_difference(self) -> float | None:
        """The largest absolute difference; None if nothing was compared."""
        return max((one.absolute for one in self.differences), default=None)

    @property
    def max_relative_difference(self) -> float | None:
        """The largest relative difference; None if nothing was compared."""
        return max((one.relative for one in self.differences), default=None)

    def __repr__(self) -> str:
        return f"ExportReport({self.format}, {self.bytes:,} bytes, max_difference={self.max_difference})"

    def __str__(self) -> str:
        """A line for each fact, and a line for each set of inputs.

        >>> report = ExportReport(
        ...     Path("net.onnx"), "onnx", 2048, 2, (Path("net.onnx"),), 20, {"Gemm": 2, "Relu": 1},
        ...     (Signature("x", "float32", ("batch", 8)),), (Signature("output", "float32", ("batch", 2)),), True,
        ...     "onnxruntime 1.20.0", (Difference("example inputs", 4, 1.2e-07, 3.1e-07),), 3e-4,
        ... )
        >>> print(report)
        file       net.onnx, onnx, 2,048 bytes, 2 tensors
        operators  3 of opset 20: 2 Gemm, 1 Relu
        inputs     x float32[batch, 8]
        outputs    output float32[batch, 2]
        checked    in onnxruntime 1.20.0 against PyTorch, allowed 3e-04 of the largest output
        <BLANKLINE>
        inputs          batch  largest difference  relative
        example inputs      4             1.2e-07   3.1e-07
        """
        facts = [("file", f"{self.path}, {self.format}, {self.bytes:,} bytes, {counted(self.tensors, 'tensor')}")]
        facts += [("", f"with {path}") for path in self.files if path != self.path]
        if self.operators:
            facts.append(("operators", self._operators()))
        facts += [("inputs", str(one)) for one in self.inputs] + [("outputs", str(one)) for one in self.outputs]
        allowed = "bit by bit" if self.tolerance is None else f"allowed {self.tolerance:.0e} of the largest output"
        facts.append(("checked", f"in {self.engine} against PyTorch, {allowed}" if self.engine else "no"))
        facts += [("note", note) for note in self.notes]
        lines = [f"{name:<11}{text}" for name, text in facts]
        if self.differences:
            rows = [("inputs", "batch", "largest difference", "relative"), *map(_row, self.differences)]
            lines += ["", *columns(rows, left=1)]
        return "\n".join(lines)

    def _operators(self) -> str:
        count = sum(self.operators.values())
        common = sorted(self.operators.items(), key=lambda one: (-one[1], one[0]))
        named = ", ".join(f"{number} {name}" for name, number in common[:_LINES])
        more = f" and {counted(len(common) - _LINES, 'more kind')}" if len(common) > _LINES else ""
        return f"{count:,}{'' if self.opset is None else f' of opset {self.opset}'}: {named}{more}"


def columns(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Lines with columns two blanks apart, the first `left` of them aligned left, the others right.

    >>> columns([("layer", "ms"), ("fc", "10.0")], left=1)
    ['layer    ms', 'fc     10.0']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _row(one: Difference) -> tuple[str, ...]:
    return one.inputs, "" if one.batch is None else str(one.batch), f"{one.absolute:.1e}", f"{one.relative:.1e}"
