"""What is noted while a model runs: operations, calls, what enters and leaves modules, multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsewood.structure.axes import Axes
from sparsewood.structure.labels import Row

__all__ = ["Call", "Cost", "Event", "Op", "Span", "Step"]


@dataclass(slots=True)
class Op:
    """One ATen operation: stand-ins for its arguments, and its result.

    `before` is the shape that the first argument had, if the operation writes to it.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    before: tuple[int, ...] = ()

    def get(self, name: str, position: int, default: Any = None) -> Any:
        """The argument `name`, number `position` of the schema; `default` if it was left out."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)


@dataclass(frozen=True, slots=True)
class Call:
    """A function that the forward called from Python: what it asked for, before PyTorch took it apart."""

    function: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """The labels of one parameter or buffer axis: `start`, `start + 1`, ..."""

    param: str
    axis: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Step:
    """One operation in the log: which steps made its operands, and the rows of its first result.

    `weights` are the operands that are parameters or computed from parameters alone; `writes` if it changes one.
    """

    op: str
    family: str
    module: str
    sources: tuple[int, ...]
    rows: tuple[Row, ...]
    weights: tuple[Axes, ...]
    writes: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """A tensor that enters (`at="input"`) or leaves (`at="output"`) the `call`-th call of a module."""

    module: str
    call: int
    at: str
    index: int
    step: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Multiply-adds of one operation: the product of its `sizes`; `rows` says which of them can shrink."""

    op: str
    module: str
    sizes: tuple[int, ...]
    rows: tuple[Row, ...]
