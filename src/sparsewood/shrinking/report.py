"""What shrinking did, in numbers: printed as a table, or read field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsewood.measurement import Latency
from sparsewood.structure import Barrier
from sparsewood.structure.names import short

__all__ = ["Budgeted", "ShrinkReport", "Size"]


@dataclass(frozen=True)
class Size:
    """Parameters, multiply-adds on the example inputs, and bytes of parameters and buffers; latency if measured."""

    params: int
    macs: int
    bytes: int
    latency: Latency | None = None


@dataclass(frozen=True)
class Budgeted:
    """A budget, how much of what it counts may be left, and how much is.

    For a latency budget seconds: `reached` is measured, `predicted` what the tables said.
    """

    budget: Any
    allowed: float | None
    reached: float | None
    predicted: float | None = None

    def __str__(self) -> str:
        if self.predicted is None:
            return f"{self.budget}: {self.reached:,} left, {self.allowed:,} allowed"
        times = {"measured": self.reached, "predicted": self.predicted, "allowed": self.allowed}
        known = [f"{1000 * seconds:.3g} ms {what}" for what, seconds in times.items() if seconds is not None]
        return f"{self.budget}: {', '.join(known)}"


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
    folded: biases that took over the constants or means of removed units, with the spread of what they replace.
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

    def __str__(self) -> str:
        return "\n".join([*self._sizes(), *self._units(), *self._proof(), *self._reasons()])

    def _sizes(self) -> list[str]:
        lines = [f"{'':<12}{'before':>10}{'after':>10}{'ratio':>8}"]
        rows = [
            ("parameters", self.before.params, self.after.params),
            ("MACs", self.before.macs, self.after.macs),
            ("bytes", self.before.bytes, self.after.bytes),
        ]
        lines += [f"{name:<12}{short(old):>10}{short(new):>10}{_ratio(old, new):>8}" for name, old, new in rows]
        if self.before.latency is not None and self.after.latency is not None:
            old, new = self.before.latency.median, self.after.latency.median
            lines.append(f"{'latency ms':<12}{1000 * old:>10.2f}{1000 * new:>10.2f}{_ratio(old, new):>8}")
        if self.budget is not None:
            lines.append(f"budget: {self.budget}")
        return lines

    def _units(self) -> list[str]:
        total = sum(count for _, count in self.units.values())
        touched = sum(kept < count for kept, count in self.units.values())
        return [f"{self.removed:,} of {total:,} units removed, from {touched} of {len(self.units)} groups"]

    def _proof(self) -> list[str]:
        if self.max_difference is None:
            return ["not verified", *self._counted()]
        how = f"{' and '.join(self.conditions)}" if self.conditions else "the example inputs"
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
        return lines + [f"note: {note}" for note in self.notes]


def _ratio(before: float, after: float) -> str:
    return f"{before / after:.2f}x" if after else "-"


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
