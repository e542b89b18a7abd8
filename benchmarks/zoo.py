"""What `trace` covers: for every network of the zoo how much of it can be removed, and why the rest stays.

Nothing is downloaded; weights are random. A network that cannot be traced is shown as RAISED, and the exit status is 1.

    python benchmarks/zoo.py
    python benchmarks/zoo.py --only 'timm:*vit*' --json coverage.json
    python benchmarks/zoo.py --small
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from zoo_models import SMALL, Entry, entries

from sparsewood.structure import Structure, trace
from sparsewood.structure.reasons import NO_RULE, RULE_FAILED, advice

LIMIT = 600
EXPLAINED_BELOW = 0.8


@dataclass(frozen=True)
class Row:
    """One network of the table."""

    model: str
    seconds: float = 0.0
    parameters: int = 0
    units: int = 0
    groups: int = 0
    prunable: float = 0.0
    inexact: int = 0
    barriers: int = 0
    values: str = "meta"
    fallback: str = ""
    training_error: str = ""
    raised: str = ""
    kept: list[tuple[int, str, str]] = field(default_factory=list)
    gaps: dict[str, int] = field(default_factory=dict)


def prunable_entries(structure: Structure, parameters: Sequence[str]) -> tuple[int, int]:
    """Entries of parameters that belong to a removable unit, and all of them. A unit without others must stay."""
    stay = {(name, axis): size for name in parameters for axis, size in enumerate(structure.shapes[name])}
    for group in structure.prunable:
        for one in group.slices if group.units > 1 else ():
            if (one.param, one.axis) in stay:
                stay[one.param, one.axis] -= int((one.owner >= 0).sum())
    total = kept = 0
    for name in parameters:
        shape = structure.shapes[name]
        whole = left = 1
        for axis, size in enumerate(shape):
            whole, left = whole * size, left * stay[name, axis]
        total, kept = total + whole, kept + left
    return total - kept, total


def measure(entry: Entry) -> Row:
    """Build, trace and count."""
    torch.manual_seed(0)
    model, inputs = entry.build()
    began = time.perf_counter()
    structure = trace(model, inputs)
    seconds = time.perf_counter() - began
    prunable, total = prunable_entries(structure, [name for name, _ in model.named_parameters()])
    gaps = Counter(
        f"{barrier.op}: {barrier.why}"
        for barrier in structure.barriers
        if barrier.why.startswith((NO_RULE, RULE_FAILED))
    )
    return Row(
        entry.name,
        seconds,
        total,
        sum(group.units for group in structure.prunable),
        len(structure.prunable),
        prunable / total if total else 0.0,
        sum(group.units for group in structure.prunable if not group.exact),
        len(structure.barriers),
        "real" if structure.record.fallback else "meta",
        structure.record.fallback,
        structure.record.training_error,
        kept=[(one.parameters, str(one), one.shapes) for one in structure.barriers[:3] if one.parameters],
        gaps=dict(gaps),
    )


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise `TimeoutError` in a block that takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def show(row: Row) -> None:
    """A line of the table, and below it why much stays."""
    if row.raised:
        print(f"| {row.model} | RAISED | | | | | | {row.raised.splitlines()[0][:160]} |")
        return
    print(
        f"| {row.model} | {row.seconds:.2f} | {row.units} | {row.groups} | {100 * row.prunable:.1f} % | {row.inexact} "
        f"| {row.barriers} | {row.values} |"
    )
    if row.prunable < EXPLAINED_BELOW:
        for count, reason, shapes in row.kept:
            share = 100 * count / max(row.parameters, 1)
            print(f"|   {share:.0f} % stay: {reason} {shapes[:60]} | takes: {advice(reason)} | | | | | | |")


def summary(rows: Sequence[Row]) -> None:
    """What all rows together lack."""
    raised = [row.model for row in rows if row.raised]
    good = [row for row in rows if not row.raised]
    print(f"\n{len(rows)} networks, {len(raised)} raised, {sum(row.values == 'real' for row in good)} needed values.")
    above = sum(row.prunable >= EXPLAINED_BELOW for row in good)
    print(f"{above} are prunable to {100 * EXPLAINED_BELOW:.0f} % or more.")
    gaps: dict[str, list[str]] = {}
    for row in good:
        for gap in row.gaps:
            gaps.setdefault(gap, []).append(row.model)
    for gap, models in sorted(gaps.items(), key=lambda item: -len(item[1])):
        print(f"- {gap}: {len(models)} ({', '.join(models[:4])}{', ...' if len(models) > 4 else ''})")


class Found(Protocol):
    """A row, as far as `run` knows it: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def raised(self) -> str:
        """The error, if there was one."""
        ...


R = TypeVar("R", bound=Found)


def run(
    document: str | None,
    header: Sequence[str],
    measure: Callable[[Entry], R],
    failed: Callable[[str, str], R],
    show: Callable[[R], None],
    summary: Callable[[Sequence[R]], None],
) -> int:
    """Measure the networks that the command line names, and show a line of each as soon as it is known.

    `failed` makes the row of a network, by its name, that raised an error. Returns the exit status.
    """
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", default="*", help="names to run, as 'timm:*' or '*resnet*'")
    parser.add_argument("--small", action="store_true", help="a dozen that are quick to build")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    chosen = [
        one for one in entries() if fnmatchcase(one.name, options.only) and (not options.small or one.name in SMALL)
    ]
    print(*header, sep="\n")
    rows: list[R] = []
    for number, entry in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {entry.name}", file=sys.stderr, flush=True)
        try:
            with limited(LIMIT):
                rows.append(measure(entry))
        except Exception as error:  # one network must not hide the others
            rows.append(failed(entry.name, f"{type(error).__name__}: {error}"))
        show(rows[-1])
        sys.stdout.flush()
        gc.collect()
        if options.json:
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8")
    summary(rows)
    return int(any(row.raised for row in rows))


def main() -> int:
    header = (
        "| model | seconds | units | groups | prunable | inexact units | barriers | pass |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    )
    return run(__doc__, header, measure, lambda name, error: Row(name, raised=error), show, summary)


if __name__ == "__main__":
    sys.exit(main())
