"""The integers of a network that follow from what is left of it, and the units that cannot go because one would not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sparsewood.shrinking.plan import Keep
from sparsewood.structure import Structure
from sparsewood.structure.expressions import COMPARISONS, Attribute, Expression, Size, evaluate, leaves, text
from sparsewood.structure.sizes import Comparison, SizeUse

__all__ = ["Sizes"]


class Sizes:
    """What the sizes that a forward used are without the units that are not kept.

    `attributes` maps integers that modules hold to what they have to be; `failures` maps groups to the reason why
    their units cannot go as they are: a size that is not that of an axis any more, or a comparison that would go the
    other way.
    """

    def __init__(self, structure: Structure, keep: Keep) -> None:
        record = structure.record
        self.structure, self.record = structure, record
        self.gone = np.zeros(len(record.group_of), bool)
        for number, group in enumerate(structure.groups):
            if group.name in keep:
                mine = record.group_of == number
                self.gone[mine] = ~np.asarray(keep[group.name])[record.unit_of[mine]]
        self._left: dict[int, int] = {}
        self.attributes: dict[Attribute, int] = {}
        self._rows: dict[Attribute, list[np.ndarray]] = {}
        for use in record.sizes:
            if isinstance(use, SizeUse) and isinstance(use.expression, Attribute) and use.row is not None:
                left = self._needed(use)
                self.attributes[use.expression] = min(left, self.attributes.get(use.expression, left))
                self._rows.setdefault(use.expression, []).append(use.row)

    @property
    def changed(self) -> Mapping[Attribute, int]:
        """The attributes that need another value."""
        return {one: value for one, value in self.attributes.items() if value != one.value}

    def failures(self) -> dict[str, str]:
        """Groups of which units go, in a size or comparison that would not hold without these, and why."""
        found: dict[str, str] = {}
        for use in self.record.sizes:
            why = self._why_not(use)
            if why:
                found.update({name: why for name in self._groups(use) if name not in found})
        return found

    def left(self, row: np.ndarray) -> int:
        """How many positions of a row stay."""
        count = self._left.get(id(row))
        if count is None:
            count = len(row) - int(self.gone[self.record.component[row[row > 0]]].sum())
            self._left[id(row)] = count
        return count

    def _needed(self, use: SizeUse) -> int:
        return use.count if use.row is None else use.count - (len(use.row) - self.left(use.row))

    def _value(self, expression: Expression) -> int:
        return evaluate(expression, lambda one: self.attributes.get(one, one.value), self.left)

    def _why_not(self, use: Any) -> str:
        try:
            if isinstance(use, SizeUse):
                if self._value(use.expression) == self._needed(use):
                    return ""
                return f"the forward asks {use.function} for {text(use.expression)}, which would not follow"
            if isinstance(use, Comparison):
                if COMPARISONS[use.symbol](self._value(use.left), self._value(use.right)) == use.outcome:
                    return ""
                return f"the forward depends on whether {text(use.left)} {use.symbol} {text(use.right)}"
        except ZeroDivisionError:
            return "the forward divides by a size that would be 0"
        return ""

    def _groups(self, use: Any) -> Iterator[str]:
        """The groups that lose units in the rows that a use depends on."""
        sides = (use.left, use.right) if isinstance(use, Comparison) else (use.expression,)
        rows: list[np.ndarray] = [] if isinstance(use, Comparison) or use.row is None else [use.row]
        for leaf in (leaf for side in sides for leaf in leaves(side)):
            if isinstance(leaf, Size):
                rows.append(leaf.row)
            elif isinstance(leaf, Attribute):
                rows += self._rows.get(leaf, [])
        components = np.unique(
            np.concatenate([self.record.component[row[row > 0]] for row in rows] or [np.zeros(0, int)])
        )
        numbers = np.unique(self.record.group_of[components[self.gone[components]]])
        yield from (self.structure.groups[number].name for number in numbers.tolist() if number >= 0)
