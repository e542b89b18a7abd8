"""Sizes that a forward asks for, and whether they still fit once units are gone.

An integer that comes from an attribute of a module or from the shape of a tensor remembers what it was computed from
(see `tracked`). Every use of one is recorded, and `conflicts` finds the units whose removal a size does not follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsewood.structure.expressions import (
    COMPARISONS,
    Attribute,
    Constant,
    Expression,
    Operation,
    Size,
    evaluate,
    leaves,
    text,
)
from sparsewood.structure.labels import Row

__all__ = ["Comparison", "SizeUse", "Use", "conflicts"]


@dataclass(frozen=True, slots=True, eq=False)
class SizeUse:
    """`function`, called in `module`, was given `expression` for the size `count` of an axis with `row`.

    If `row` is `None` the number has to stay: the axis has no units, or the number is not a size.
    """

    step: int
    module: str
    function: str
    row: Row
    count: int
    expression: Expression


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The forward compared two integers, and `outcome` decided which way it went."""

    left: Expression
    symbol: str
    right: Expression
    outcome: bool


Use = SizeUse | Comparison

_FEW = 9
"""Where sizes are rounded, it is tried up to this number of units whether they can go."""


def conflicts(uses: Sequence[Use], component: np.ndarray, frozen: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """The labels that have to stay because a size would not follow the removal of their units, with the reasons.

    `component` maps labels to components, `frozen` flags components. An attribute that is itself the size of an axis
    can be rewritten; all its uses then have to agree. Freezing what is returned can only remove conflicts of other
    units if these share an attribute, so call again until nothing is returned. The time is linear in the lengths of
    the rows: components that the same rows hold equally often are looked at once.
    """
    return _Check(uses, component, frozen).run()


@dataclass(slots=True)
class _Entry:
    """A use, the numbers of the rows it depends on, its attributes, and the attribute that it defines.

    `rounds`: what holds without one unit may not hold without several.
    """

    use: Use
    row: int | None
    rows: frozenset[int]
    attributes: frozenset[Attribute]
    defines: Attribute | None
    rounds: bool


@dataclass(slots=True)
class _Class:
    """Free components that every row holds equally often: `counts[row]` times."""

    members: np.ndarray
    counts: dict[int, int]


class _Check:
    def __init__(self, uses: Sequence[Use], component: np.ndarray, frozen: np.ndarray) -> None:
        self.component, self.frozen = component, frozen
        self.rows: list[np.ndarray] = []
        self.numbers: dict[bytes, int] = {}
        self.number_of: dict[int, int] = {}
        self.entries: list[_Entry] = []
        self.by_row: dict[int, list[int]] = {}
        self.by_attribute: dict[Attribute, list[int]] = {}
        known: set[object] = set()
        for use in uses:
            key = self._key(use)
            if key not in known:
                known.add(key)
                self._add(use)
        self.rounded = {number for entry in self.entries if entry.rounds for number in self._involved(entry)}

    # ------------------------------------------------------------ what is used where

    def _number(self, row: np.ndarray) -> int:
        number = self.number_of.get(id(row))
        if number is None:
            number = self.numbers.setdefault(row.tobytes(), len(self.rows))
            if number == len(self.rows):
                self.rows.append(row)
            self.number_of[id(row)] = number
        return number

    def _key(self, use: Use) -> object:
        if isinstance(use, Comparison):
            return self._expression_key(use.left), use.symbol, self._expression_key(use.right)
        row = None if use.row is None else self._number(use.row)
        return row, use.count, self._expression_key(use.expression)

    def _expression_key(self, expression: Expression) -> object:
        if isinstance(expression, Size):
            return "size", self._number(expression.row)
        if isinstance(expression, Operation):
            return (expression.symbol, *map(self._expression_key, expression.operands))
        return expression

    def _add(self, use: Use) -> None:
        sides = (use.left, use.right) if isinstance(use, Comparison) else (use.expression,)
        parts = [leaf for side in sides for leaf in leaves(side)]
        attributes = frozenset(leaf for leaf in parts if isinstance(leaf, Attribute))
        rows = {self._number(leaf.row) for leaf in parts if isinstance(leaf, Size)}
        row = defines = None
        if isinstance(use, SizeUse):
            if use.row is not None:
                row = self._number(use.row)
                rows.add(row)
            defines = use.expression if isinstance(use.expression, Attribute) else None
        for number in rows:
            self.by_row.setdefault(number, []).append(len(self.entries))
        for attribute in attributes:
            self.by_attribute.setdefault(attribute, []).append(len(self.entries))
        rounds = isinstance(use, SizeUse) and not _is_linear(use.expression)
        self.entries.append(_Entry(use, row, frozenset(rows), attributes, defines, rounds))

    # ------------------------------------------------------------ which units are alike

    def _classes(self) -> list[_Class]:
        triples = [np.zeros((0, 3), np.int64)]
        for number, row in enumerate(self.rows):
            ones = self.component[row[row > 0]]
            ones, counts = np.unique(ones[~self.frozen[ones]], return_counts=True)
            triples.append(np.stack([ones, np.full(len(ones), number), counts], 1))
        table = np.concatenate(triples)
        if not len(table):
            return []
        _, pair = np.unique(table[:, 1:], axis=0, return_inverse=True)
        # Sums of one random number for each (row, count) tell sets of them apart.
        codes = np.random.default_rng(0).integers(0, 2**63, len(table), np.uint64)[pair.reshape(-1)]
        signature = np.zeros(len(self.frozen), np.uint64)
        np.add.at(signature, table[:, 0], codes)
        members = np.unique(table[:, 0])
        _, first, group = np.unique(signature[members], return_index=True, return_inverse=True)
        counts_of = _counts_of(table, set(members[first].tolist()))
        return [_Class(members[group == number], counts_of[one]) for number, one in enumerate(members[first].tolist())]

    # ------------------------------------------------------------ what happens if they go

    def run(self) -> list[tuple[np.ndarray, str]]:
        classes = self._classes()
        found = {id(one): why for one in classes for why in [self._alone(one)] if why is not None}
        if not found:  # what holds for units of one kind may still fail for several kinds at once
            found = {id(one): why for one, why in self._together(classes)}
        return [(self._labels(one), found[id(one)]) for one in classes if id(one) in found]

    def _labels(self, one: _Class) -> np.ndarray:
        row = self.rows[min(one.counts)]
        return row[np.isin(self.component[row], one.members) & (row > 0)]

    def _alone(self, one: _Class) -> str | None:
        """Why units of this kind cannot go by themselves: one of them, or where sizes are rounded several."""
        for amount in self._amounts(one):
            gone = {number: amount * count for number, count in one.counts.items()}
            failed = self._failures(gone, truths=amount == 1)
            if failed:
                return failed[0][1]
        return None

    def _amounts(self, one: _Class) -> list[int]:
        size = len(one.members)
        if size < 3 or not one.counts.keys() & self.rounded:
            return [1]
        return sorted({*range(1, min(size, _FEW)), size // 2, size - 1})

    def _together(self, classes: Sequence[_Class]) -> list[tuple[_Class, str]]:
        """The kinds that cannot go together, and why: half of the units of every kind, and all but one of them."""
        for part in (lambda size: size // 2, lambda size: size - 1):
            gone: dict[int, int] = {}
            for one in classes:
                if one.counts.keys() & self.rounded:
                    for number, count in one.counts.items():
                        gone[number] = gone.get(number, 0) + part(len(one.members)) * count
            failed = self._failures({number: count for number, count in gone.items() if count}, truths=False)
            rows = {number: why for entry, why in failed for number in self._involved(entry)}
            found = [(one, rows[number]) for one in classes for number in sorted(one.counts.keys() & rows.keys())[:1]]
            if found:
                return found
        return []

    def _involved(self, entry: _Entry) -> set[int]:
        """The rows that a use depends on, also through the attributes that other uses define."""
        numbers = set(entry.rows)
        for attribute in entry.attributes:
            for index in self.by_attribute[attribute]:
                if self.entries[index].defines is not None:
                    numbers |= self.entries[index].rows
        return numbers

    def _failures(self, gone: dict[int, int], *, truths: bool) -> list[tuple[_Entry, str]]:
        """The uses that do not hold without `gone[row]` positions; comparisons only if `truths` are asked for."""
        touched = {index for number in gone for index in self.by_row.get(number, ())}
        values: dict[Attribute, int] = {}
        failed: list[tuple[_Entry, str]] = []
        for index in sorted(touched):
            entry = self.entries[index]
            if entry.defines is not None and entry.defines not in values:
                values[entry.defines] = self._needed(entry, gone)
        for attribute, value in values.items():
            if value != attribute.value:
                touched.update(self.by_attribute[attribute])
        for index in sorted(touched):
            entry = self.entries[index]
            if (truths or isinstance(entry.use, SizeUse)) and not self._holds(entry, values, gone):
                failed.append((entry, _why(entry)))
        return failed

    def _needed(self, entry: _Entry, gone: dict[int, int]) -> int:
        """The size that an axis will have."""
        assert isinstance(entry.use, SizeUse)
        return entry.use.count - (0 if entry.row is None else gone.get(entry.row, 0))

    def _holds(self, entry: _Entry, values: dict[Attribute, int], gone: dict[int, int]) -> bool:
        def attribute(one: Attribute) -> int:
            return values.get(one, one.value)

        def size(row: np.ndarray) -> int:
            return len(row) - gone.get(self._number(row), 0)

        use = entry.use
        try:
            if isinstance(use, SizeUse):
                return evaluate(use.expression, attribute, size) == self._needed(entry, gone)
            left, right = evaluate(use.left, attribute, size), evaluate(use.right, attribute, size)
        except ZeroDivisionError:
            return False
        return COMPARISONS[use.symbol](left, right) == use.outcome


def _is_linear(expression: Expression) -> bool:
    """Whether equal changes of what an expression is computed from change it equally each time."""
    if not isinstance(expression, Operation):
        return True
    varying = [one for one in expression.operands if not all(isinstance(leaf, Constant) for leaf in leaves(one))]
    if expression.symbol in ("//", "%") or (expression.symbol == "*" and len(varying) > 1):
        return not varying
    return all(map(_is_linear, expression.operands))


def _counts_of(table: np.ndarray, wanted: set[int]) -> dict[int, dict[int, int]]:
    counts: dict[int, dict[int, int]] = {one: {} for one in wanted}
    for one, number, count in table[np.isin(table[:, 0], list(wanted))].tolist():
        counts[one][number] = count
    return counts


def _why(entry: _Entry) -> str:
    use = entry.use
    if isinstance(use, Comparison):
        return f"the forward depends on whether {text(use.left)} {use.symbol} {text(use.right)}"
    if entry.defines is not None:
        return f"attribute {text(entry.defines)} has to serve axes of different sizes"
    if use.row is None:
        return f"{text(use.expression)} is also used where it has to stay {use.count} ({use.function})"
    return f"its size {text(use.expression)} is that of another axis"
