"""Integers as expressions: attributes of modules, sizes of rows, and arithmetic on them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "ARITHMETIC",
    "COMPARISONS",
    "Attribute",
    "Constant",
    "Expression",
    "Operation",
    "Size",
    "evaluate",
    "leaves",
    "text",
]


@dataclass(frozen=True, slots=True)
class Attribute:
    """An integer that a module holds: `path` leads to it from the attribute `name` through tuples and objects."""

    module: str
    name: str
    path: tuple[int | str, ...]
    value: int


@dataclass(frozen=True, slots=True, eq=False)
class Size:
    """How many positions `row` has."""

    row: np.ndarray


@dataclass(frozen=True, slots=True)
class Constant:
    """A number that stays what it is."""

    value: int


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """Arithmetic on expressions; `symbol` is a key of `ARITHMETIC`."""

    symbol: str
    operands: tuple[Expression, ...]


Expression = Attribute | Size | Constant | Operation

ARITHMETIC: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "neg": operator.neg,
}
COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def leaves(expression: Expression) -> Iterator[Attribute | Size | Constant]:
    """What an expression is computed from."""
    if isinstance(expression, Operation):
        for operand in expression.operands:
            yield from leaves(operand)
    else:
        yield expression


def evaluate(expression: Expression, attribute: Callable[[Attribute], int], size: Callable[[np.ndarray], int]) -> int:
    """The value of an expression for other attributes and sizes; may raise `ZeroDivisionError`."""
    if isinstance(expression, Operation):
        operands = [evaluate(operand, attribute, size) for operand in expression.operands]
        return ARITHMETIC[expression.symbol](*operands)
    if isinstance(expression, Attribute):
        return attribute(expression)
    return size(expression.row) if isinstance(expression, Size) else expression.value


def text(expression: Expression) -> str:
    """An expression as a person would write it, shapes as their numbers.

    >>> text(Operation("//", (Size(np.ones(64)), Attribute("block.attention", "config", ("heads",), 4))))
    '64 // block.attention.config.heads'
    """
    if isinstance(expression, Size):
        return str(len(expression.row))
    if isinstance(expression, Constant):
        return str(expression.value)
    if isinstance(expression, Attribute):
        steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in expression.path)
        return f"{expression.module}.{expression.name}{steps}".lstrip(".")
    parts = [f"({text(one)})" if isinstance(one, Operation) else text(one) for one in expression.operands]
    return f"-{parts[0]}" if expression.symbol == "neg" else f" {expression.symbol} ".join(parts)
