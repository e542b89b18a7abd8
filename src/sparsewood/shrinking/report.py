"""What shrinking did, in numbers: printed as a table, or read field by field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsewood.errors import SparsewoodError
from sparsewood.structure import Barrier
from sparsewood.structure.names import counted, percent, short

__all__ = ["Budgeted", "ShrinkReport", "Size"]

_SLOWER = 1.05
"""How far above a latency budget a measurement still meets it: times vary."""

_REASONS = 2
"""How many reasons why parameters stay are printed."""


@dataclass(frozen=True)
class Size:
    """Parameters, multiply-adds on the example inputs, and bytes of parameters and buffers."""

    params: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class Budgeted:
    """A budget, how much of what it counts may be left, and how much is.

    For a latency budget seconds: `reached` is measured, `predicted` what the tables said.
    """

    budget: Any
    allowed: float | None
    reached: float | None
    predicted: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether no more is left than allowed (a time may be 5 % longer); None where nothing was measured."""
        if self.allowed is None or self.reached is None:
            return None
        return self.reached <= self.allowed * (1 if self.predicted is None else _SLOWER)

    def __str__(self) -> str:
        return f"{self.budget}: {self._numbers()}{' (MISSED)' if self.met is False else ''}"

    def _numbers(self) -> str:
        if self.predicted is None:
            numbers = {"left": self.reached, "allowed": self.allowed}
            return ", ".join(f"{number:,} {what}" for what, number in numbers.items() if number is not None)
        times = {"measured": self.reached, "predicted": self.predicted, "allowed": self.allowed}
        known = [f"{1000 * seconds:.3g} ms {what}" for what, seconds in times.items() if seconds is not None]
        return ", ".join(known)


@dataclass(frozen=True)
class ShrinkReport:
    """Args:
    before, after: the sizes of the two networks.
    units: for each group how many of its units stay, and how many it had.
    asked, removed: units that should go, and that went.
    max_difference: the largest difference between the outputs of the masked and of the small network, relative to
        the largest output; None if nothing was compared.
    exact: whether that was proven to be rounding only.
    inexact: groups that lost units which a normalisation counts, so that removing is not masking, and the reasons;
        `max_difference` is then what that comes to, and `proven` the difference without those removals.
    held: groups that could have lost units and did not, or fewer than asked for, and why.
    barriers: why the rest of the network stays.
    conditions: how the networks were run for the comparison; `notes` what could not be tried.
    folded: weights whose biases took over the constants or means of removed units, with the spread of what these add.
    budget: what was asked for and reached, if it was a budget.
    seconds: how long each part took.
    """

    before: Size
    after: Size
    units: Mapping[str, tuple[int, int]]
    asked: int
    removed: int
    max_difference: float | None = None
    proven: float | None = None
    exact: bool = False
    rounding: float | None = None
    inexact: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    barriers: tuple[Barrier, ...] = ()
    conditions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    folded: Mapping[str, float] = field(default_factory=dict)
    budget: Budgeted | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """Whether the two networks were compared."""
        return self.max_difference is not None

    def __repr__(self) -> str:
        proof = "not verified" if self.max_difference is None else "exact" if self.exact else "not exact"
        total = sum(count for _, count in self.units.values())
        sizes = f"{self.before.params:,} -> {self.after.params:,} parameters"
        return f"ShrinkReport({self.removed:,} of {total:,} units, {sizes}, {proof})"

    def __str__(self) -> str:
        return "\n".join([*self._sizes(), *self._units(), *self._folded(), *self._proof(), *self._reasons()])

    def table(self, most: int = 40) -> str:
        """The units of each group before and after, and the share that stays; the first `most` groups.

        >>> size = Size(0, 0, 0)
        >>> print(ShrinkReport(size, size, {"conv1": (6, 8), "fc": (5, 100)}, asked=97, removed=97).table())
        conv1    8 -> 6  75.0 %
        fc     100 -> 5   5.0 %
        """
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise SparsewoodError(f"most must be a whole number >= 1. Got {most!r}.")
        shown = list(self.units.items())[:most]
        rows = [(name, f"{units:,}", f"{kept:,}", percent(kept / units)) for name, (kept, units) in shown]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
        lines = [
            f"{name:<{widths[0]}}  {units:>{widths[1]}} -> {kept:>{widths[2]}}  {share:>{widths[3]}}"
            for name, units, kept, share in rows
        ]
        left = len(self.units) - len(shown)
        return "\n".join([*lines, f"... and {counted(left, 'more group')}"] if left else lines)

    def _sizes(self) -> list[str]:
        lines = [f"{'':<12}{'before':>10}{'after':>10}{'ratio':>8}"]
        rows = [
            ("parameters", self.before.params, self.after.params),
            ("MACs", self.before.macs, self.after.macs),
            ("bytes", self.before.bytes, self.after.bytes),
        ]
        lines += [f"{name:<12}{short(old):>10}{short(new):>10}{_ratio(old, new):>8}" for name, old, new in rows]
        if self.budget is not None:
            lines.append(f"budget: {self.budget}")
        return lines

    def _units(self) -> list[str]:
        total = sum(count for _, count in self.units.values())
        touched = sum(kept < count for kept, count in self.units.values())
        asked = f" ({self.asked:,} asked for)" if self.asked != self.removed and self.budget is None else ""
        groups = f"{touched} of {counted(len(self.units), 'group')}"
        return [f"{self.removed:,} of {counted(total, 'unit')} removed{asked}, from {groups}"]

    def _folded(self) -> list[str]:
        if not self.folded:
            return []
        largest = max(self.folded.values())
        spread = f"which varies by up to {largest:.1g}" if largest else "which is constant"
        biases = "the bias of 1 layer" if len(self.folded) == 1 else f"the biases of {len(self.folded):,} layers"
        return [f"folded: {biases} took over what removed units add, {spread}"]

    def _proof(self) -> list[str]:
        if self.max_difference is None:
            return ["not verified", *self._counted()]
        how = _joined(self.conditions) if self.conditions else "the example inputs"
        if self.exact:
            rounded = "" if self.rounding is None else f"; {self.rounding:.1g} with folded weights in their own dtype"
            return [
                f"equal to the masked network: largest relative difference {self.max_difference:.1g}{rounded} ({how})"
            ]
        lines = [f"differs from the masked network by {self.max_difference:.2g} ({how}):"]
        lines += self._counted()
        if self.proven is not None:
            lines.append(f"  all other removals: {self.proven:.1g}")
        return lines

    def _counted(self) -> list[str]:
        by_reason: dict[str, list[str]] = {}
        for name, reasons in self.inexact.items():
            by_reason.setdefault(", ".join(reasons), []).append(name)
        return [f"  not exact: {reason}: {_listed(names)}" for reason, names in by_reason.items()]

    def _reasons(self) -> list[str]:
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.held.items():
            by_reason.setdefault(reason, []).append(name)
        lines = [f"held: {_listed(names)}: {reason}" for reason, names in by_reason.items()]
        return [*lines, *self._stays(), *(f"note: {note}" for note in self.notes)]

    def _stays(self) -> list[str]:
        """Why parameters stay that no removable unit holds: the reasons that hold most of them."""
        by_reason: dict[str, int] = {}
        for barrier in self.barriers:
            by_reason[str(barrier)] = by_reason.get(str(barrier), 0) + barrier.parameters
        found = sorted(((held, reason) for reason, held in by_reason.items() if held), key=lambda one: -one[0])
        lines = [f"stays: {counted(held, 'parameter')}: {reason}" for held, reason in found[:_REASONS]]
        more = len(found) - _REASONS
        return [*lines, f"stays: {counted(more, 'more reason')}, see .barriers"] if more > 0 else lines


def _ratio(before: float, after: float) -> str:
    return f"{before / after:.2f}x" if after else "-"


def _joined(conditions: Iterable[str]) -> str:
    """How the networks were run, each mode and kind of inputs named once.

    >>> _joined(["eval mode", "eval mode, random inputs"])
    'eval mode; example and random inputs'
    >>> _joined(["eval mode", "eval mode, random inputs", "train mode"])
    'eval mode, example and random inputs; train mode, example inputs'
    """
    inputs: dict[str, dict[str, None]] = {}
    for name in conditions:
        mode, _, kind = name.partition(", ")
        inputs.setdefault(mode.removesuffix(" mode"), {})[kind.removesuffix(" inputs") or "example"] = None
    modes: dict[str, list[str]] = {}
    for mode, kinds in inputs.items():
        modes.setdefault(" and ".join(kinds), []).append(mode)
    dash = "; " if len(modes) == 1 else ", "
    return "; ".join(f"{' and '.join(names)} mode{dash}{kinds} inputs" for kinds, names in modes.items())


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
