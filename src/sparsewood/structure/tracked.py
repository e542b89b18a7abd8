"""An integer that remembers what it was computed from.

Arithmetic on `Tracked` integers builds expressions. Whatever else Python computes from them is a plain number: then the
number itself matters, which `note_number` takes down, and comparisons take down that they were made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, isfinite
from typing import Any

import numpy as np

from sparsewood.structure.expressions import ARITHMETIC, COMPARISONS, Constant, Expression, Operation, Size
from sparsewood.structure.sizes import Comparison, SizeUse

__all__ = ["Number", "Tracked", "expression_of", "note_number", "same_labels"]


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    """The value of `expression` was used as a number, as the factor that scales attention is."""

    expression: Expression


class Tracked(int):
    """An integer with the expression that it is; `uses` is the list that takes down what becomes of it."""

    expression: Expression
    uses: list[Any]

    @classmethod
    def of(cls, value: int, expression: Expression, uses: list[Any]) -> Tracked:
        """The integer `value` that is the value of `expression`."""
        number = cls(value)
        number.expression, number.uses = expression, uses
        return number

    @property
    def plain(self) -> int:
        """The integer without its memory."""
        return int.__int__(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (self.plain,)

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        return self.plain

    def __copy__(self) -> int:
        return self.plain

    def __int__(self) -> int:
        note_number(self)
        return self.plain

    def __abs__(self) -> Tracked:
        return self

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __neg__(self) -> Tracked:
        return Tracked.of(int.__neg__(self), Operation("neg", (self.expression,)), self.uses)

    def __pos__(self) -> Tracked:
        return self

    def __float__(self) -> float:
        note_number(self)
        return int.__float__(self)

    def __truediv__(self, other: Any) -> Any:
        note_number(self)
        return int.__truediv__(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        note_number(self)
        return int.__rtruediv__(self, other)

    def __pow__(self, other: Any, modulus: int | None = None) -> Any:
        note_number(self)
        return int.__pow__(self, other, modulus)


def plain(value: Any) -> int:
    """An integer without its memory, and without a note that it was asked for."""
    return value.plain if type(value) is Tracked else int(value)


def expression_of(value: Any, uses: list[Any]) -> Expression | None:
    """What an integer was computed from; `None` if that is not known in this trace (others have other `uses`)."""
    return value.expression if type(value) is Tracked and value.uses is uses else None


def note_number(value: Tracked) -> None:
    """The value matters, not only as a size: what it scales, a mask would not scale."""
    value.uses.append(Number(value.expression))


def same_labels(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two rows always have as many positions: they have the same labels, perhaps in another order."""
    return first is second or (len(first) == len(second) and np.array_equal(np.sort(first), np.sort(second)))


def _arithmetic(symbol: str, name: str, *, reflected: bool) -> Callable[[Tracked, Any], Any]:
    plain = getattr(int, name)

    def method(self: Tracked, other: Any) -> Any:
        value = plain(self, other)
        if value is NotImplemented:
            if isinstance(other, float):  # takes over, and asks for nothing
                note_number(self)
            return value
        known = expression_of(other, self.uses) or Constant(other.plain if type(other) is Tracked else int(other))
        operands = (known, self.expression) if reflected else (self.expression, known)
        return Tracked.of(value, Operation(symbol, operands), self.uses)

    return method


def _bits(name: str) -> Callable[[Tracked, Any], Any]:
    plain = getattr(int, name)

    def method(self: Tracked, other: Any) -> Any:
        note_number(self)
        return plain(self.plain, other)

    return method


def _comparison(symbol: str, name: str) -> Callable[[Tracked, Any], Any]:
    plain = getattr(int, name)

    def method(self: Tracked, other: Any) -> Any:
        if isinstance(other, float) and symbol in ("==", "!=") and not other.is_integer():
            return symbol == "!="
        if isinstance(other, float) and isfinite(other):  # between two integers the lower or the higher one decides
            other = ceil(other) if symbol in ("<", ">=") else floor(other)
        outcome = plain(self, other)
        if outcome is not NotImplemented:
            right = expression_of(other, self.uses) or Constant(other.plain if type(other) is Tracked else int(other))
            _note_comparison(self.uses, self.expression, symbol, right, outcome)
        return outcome

    return method


for _symbol, _name in {"+": "add", "-": "sub", "*": "mul", "//": "floordiv", "%": "mod"}.items():
    assert _symbol in ARITHMETIC
    setattr(Tracked, f"__{_name}__", _arithmetic(_symbol, f"__{_name}__", reflected=False))
    setattr(Tracked, f"__r{_name}__", _arithmetic(_symbol, f"__r{_name}__", reflected=True))
for _name in ("and", "or", "xor", "lshift", "rshift"):
    setattr(Tracked, f"__{_name}__", _bits(f"__{_name}__"))
    setattr(Tracked, f"__r{_name}__", _bits(f"__r{_name}__"))
for _symbol, _name in {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}.items():
    assert _symbol in COMPARISONS
    setattr(Tracked, f"__{_name}__", _comparison(_symbol, f"__{_name}__"))


def _note_comparison(uses: list[Any], left: Expression, symbol: str, right: Expression, outcome: bool) -> None:
    """Two equal sizes have to stay equal, as in assertions; of anything else the outcome has to stay."""
    if symbol in ("==", "!=") and (symbol == "==") == outcome:
        if isinstance(right, Size):
            left, right = right, left
        if isinstance(left, Size):
            if not (isinstance(right, Size) and same_labels(left.row, right.row)):
                uses.append(SizeUse(-1, "", "compared", left.row, len(left.row), right))
            return
    uses.append(Comparison(left, symbol, right, bool(outcome)))
