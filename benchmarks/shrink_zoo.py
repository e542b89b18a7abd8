"""Half of the units of every network of the zoo are removed, and the small network is compared with the masked one.

Nothing is downloaded; weights are random, and parameters that are constant at the start (scales of 1e-6, shifts of 0)
get random values, too, so that nothing hides behind them. A network that raises, or that differs by more than 1e-9 in
float64 without a reason, makes the exit status 1.

    python benchmarks/shrink_zoo.py
    python benchmarks/shrink_zoo.py --only 'timm:*vit*' --json shrunk.json
    python benchmarks/shrink_zoo.py --small
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from zoo import run
from zoo_models import Entry

import sparsewood as sw
from sparsewood.structure.names import short

EXACT = 1e-9


@dataclass(frozen=True)
class Row:
    """One network of the table; `params` and `macs` before and after."""

    model: str
    seconds: float = 0.0
    units: tuple[int, int] = (0, 0)
    params: tuple[int, int] = (0, 0)
    macs: tuple[int, int] = (0, 0)
    difference: float = 0.0
    proven: float | None = None
    exact: bool = False
    compared: str = ""
    inexact: list[str] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)
    nothing: str = ""
    raised: str = ""


def enliven(model: nn.Module, generator: torch.Generator) -> None:
    """Give parameters and statistics that are constant random values."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if (
                tensor.is_floating_point()
                and tensor.dim() == 1
                and tensor.numel() > 1
                and bool((tensor == tensor[0]).all())
            ):
                noise = torch.rand(tensor.shape, generator=generator)
                shift = name.endswith(("bias", "running_mean")) or bool(tensor.flatten()[0] == 0)
                tensor.copy_(0.2 * noise - 0.1 if shift else 0.5 + noise)


def measure(entry: Entry) -> Row:
    """Build, shrink, read the report."""
    torch.manual_seed(0)
    model, inputs = entry.build()
    model.eval()
    enliven(model, torch.Generator().manual_seed(0))
    began = time.perf_counter()
    structure = sw.trace(model, inputs)
    removable = sum(group.units for group in structure.prunable)
    if not any(group.units > 1 for group in structure.prunable):
        return Row(entry.name, nothing=f"{len(structure.prunable)} removable groups of more than one unit")
    report = sw.shrink(model, inputs, 0.5, scope=sw.PerLayer(), structure=structure).report
    assert report.max_difference is not None
    return Row(
        entry.name,
        time.perf_counter() - began,
        (removable, report.removed),
        (report.before.params, report.after.params),
        (report.before.macs, report.after.macs),
        report.max_difference,
        report.proven,
        report.exact,
        "; ".join(note for note in report.notes if note.startswith(("not in float64", "exact up to"))),
        sorted({reason for reasons in report.inexact.values() for reason in reasons}),
        dict(Counter(report.held.values())),
    )


def show(row: Row) -> None:
    """A line of the table."""
    if row.raised or row.nothing:
        print(f"| {row.model} | {'RAISED' if row.raised else '-'} | | | | | {(row.raised or row.nothing)[:200]} |")
        return
    verdict = "exact" if row.exact else f"inexact: {', '.join(row.inexact)}"
    if row.proven is not None:
        verdict += f"; the rest {row.proven:.0e}"
    if row.compared:
        verdict = row.compared if row.exact and row.compared.startswith("exact") else f"{verdict}; {row.compared}"
    if row.held:
        verdict += f"; {sum(row.held.values())} groups held"
    before, after = zip(row.params, row.macs, strict=True)
    print(
        f"| {row.model} | {row.seconds:.1f} | {row.units[1]} of {row.units[0]} "
        f"| {short(before[0])} -> {short(after[0])} | {short(before[1])} -> {short(after[1])} | {row.difference:.0e} "
        f"| {verdict} |"
    )


def summary(rows: Sequence[Row]) -> None:
    """What all rows together say."""
    raised = [row.model for row in rows if row.raised]
    shrunk = [row for row in rows if not row.raised and not row.nothing]
    exact = [row for row in shrunk if row.exact]
    print(
        f"\n{len(rows)} networks: {len(shrunk)} shrunk, {len(exact)} of them exact, {len(shrunk) - len(exact)} inexact "
        f"with a reason; {sum(bool(row.nothing) for row in rows)} without removable units, {len(raised)} raised."
    )
    reasons = Counter(reason for row in shrunk for reason in row.inexact)
    for reason, count in reasons.most_common():
        print(f"- {reason}: {count}")
    held = Counter(reason for row in shrunk for reason in row.held)
    for reason, count in held.most_common():
        print(f"- held, {reason}: {count}")


def main() -> int:
    header = (
        "| model | seconds | units removed | parameters | MACs | difference | |",
        "|---|---:|---:|---:|---:|---:|---|",
    )
    return run(__doc__, header, measure, lambda name, error: Row(name, raised=error), show, summary)


if __name__ == "__main__":
    sys.exit(main())
