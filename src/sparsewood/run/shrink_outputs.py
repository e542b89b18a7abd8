"""What `sparsewood shrink` shows and writes: the table before and after, the groups, and files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsewood.data.split import Split
from sparsewood.errors import SparsewoodError
from sparsewood.files import writable_directory
from sparsewood.measurement import Evaluation, Latency, count
from sparsewood.report.rows import to_csv
from sparsewood.report.table import Table
from sparsewood.run import yamlfile
from sparsewood.run.canonical import written
from sparsewood.run.directory import write_json, write_text
from sparsewood.run.provenance import machine, versions
from sparsewood.run.recipe import text_of
from sparsewood.run.shrink_recipe import ShrinkRecipe, effective_shrink_recipe
from sparsewood.run.shrink_work import Outcome
from sparsewood.shrinking.files import PLAN, WEIGHTS, save
from sparsewood.shrinking.report import ShrinkReport
from sparsewood.structure import Barrier
from sparsewood.structure.names import counted

__all__ = [
    "Row",
    "all_values",
    "budget",
    "group_table",
    "inexact",
    "loading",
    "model_there",
    "notes",
    "preview_rows",
    "preview_values",
    "proven",
    "rows",
    "rows_table",
    "save_network",
    "title",
    "what_stays",
    "write_all",
]

FORMAT, VERSION = "sparsewood shrink", 1
SUMMARY, TABLE, RECIPE = "shrink.json", "shrink.csv", "recipe.yaml"
NOT_MASKING = "Not the same as masking:"
PERHAPS_NOT_MASKING = "Perhaps not the same as masking, which only a comparison can tell:"
MOST_REASONS = 12
MOST_NAMES = 6


@dataclass(frozen=True)
class Row:
    """One measure of the two networks. Quartiles are those of times; `ratio` is before / after.

    `unit` is "s" for times, "accuracy" for shares of examples that are right, "bytes", or "" for numbers.
    """

    measure: str
    unit: str
    before: float
    after: float
    ratio: float | None = None
    before_q25: float | None = None
    before_q75: float | None = None
    after_q25: float | None = None
    after_q75: float | None = None


# ---------------------------------------------------------------- rows


def preview_rows(report: ShrinkReport) -> list[Row]:
    """The sizes that are predicted."""
    before, after = report.before, report.after
    return [
        _size("parameters", "", before.params, after.params),
        _size("MACs", "", before.macs, after.macs),
        _size("weights", "bytes", before.bytes, after.bytes),
    ]


def rows(
    outcome: Outcome, tested: Mapping[str, Evaluation], stored: tuple[int, int], *, filled: bool = False
) -> list[Row]:
    """All that was measured; `stored` are the bytes of the two networks' files, `filled` says that means were left."""
    report = outcome.shrunk.report
    found = [
        _size("parameters", "", count(outcome.dense).params, count(outcome.shrunk.model).params),
        _size("MACs", "", report.before.macs, report.after.macs),
        _size(WEIGHTS, "bytes", *stored),
    ]
    found += [_time(f"latency, batch {size}", *pair) for size, pair in outcome.latency.items()]
    validation = dict(outcome.validation)
    dense = validation.pop("dense", None)
    if dense is not None:
        # Means are part of the cut, so that there is no network without them that could be measured.
        first = "right after shrinking" + (" (bias propagation)" if filled else "")
        labels = {"shrunk": first}
        found += [_accuracy(f"validation, {labels.get(name, name)}", dense, one) for name, one in validation.items()]
    if tested:
        found.append(_accuracy("test", tested["dense"], tested["small"]))
    return found


def _size(measure: str, unit: str, before: int, after: int) -> Row:
    return Row(measure, unit, before, after, before / after if after else None)


def _time(measure: str, before: Latency, after: Latency) -> Row:
    quartiles = (before.q25, before.q75, after.q25, after.q75)
    return Row(measure, "s", before.median, after.median, before.median / after.median, *quartiles)


def _accuracy(measure: str, before: Evaluation, after: Evaluation) -> Row:
    return Row(measure, "accuracy", before.top[1], after.top[1])


# ---------------------------------------------------------------- tables


def rows_table(found: Iterable[Row], title: str) -> Table:
    """Side by side: times with their quartiles, accuracies in % with the change instead of a ratio."""
    return Table(title, ("", "before", "after", "ratio"), tuple(_cells(row) for row in found))


def _cells(row: Row) -> tuple[str, ...]:
    if row.unit == "s":
        unit, factor = ("us", 1e6) if max(row.before, row.after) < 1e-3 else ("ms", 1e3)
        before = _time_cell(factor, row.before, row.before_q25, row.before_q75)
        after = _time_cell(factor, row.after, row.after_q25, row.after_q75)
        return (f"{row.measure} [{unit}]", before, after, _ratio(row))
    if row.unit == "accuracy":
        change = 100 * (row.after - row.before)
        return (f"{row.measure} [%]", f"{100 * row.before:.2f}", f"{100 * row.after:.2f}", f"{change:+.2f}")
    measure = f"{row.measure} [{row.unit}]" if row.unit else row.measure
    return (measure, f"{row.before:,}", f"{row.after:,}", _ratio(row))


def _ratio(row: Row) -> str:
    return "-" if row.ratio is None else f"{row.ratio:.2f}x"


def _time_cell(factor: float, median: float, q25: float | None, q75: float | None) -> str:
    """Three digits, with the quartiles."""
    assert q25 is not None
    assert q75 is not None
    digits = 2 if factor * median < 10 else 1 if factor * median < 100 else 0
    return f"{factor * median:.{digits}f} ({factor * q25:.{digits}f}-{factor * q75:.{digits}f})"


def group_table(report: ShrinkReport, title: str) -> Table:
    """The units of every group before and after, and how many go."""
    lines = tuple((name, str(units), str(kept), str(units - kept)) for name, (kept, units) in report.units.items())
    return Table(title, ("group", "units", "stay", "go"), lines)


def what_stays(report: ShrinkReport) -> Iterator[str]:
    """Why groups that could lose units do not, or fewer; and why the rest of the network stays."""
    held: dict[str, list[str]] = {}
    for name, reason in report.held.items():
        held.setdefault(reason, []).append(name)
    if held:
        yield "Held:"
        yield from (f"  {_listed(names)}: {reason}" for reason, names in held.items())
    stays = _by_reason(report.barriers)
    if stays:
        yield "What stays, by number of parameters, and why:"
        width = max(len(f"{count:,}") for count in stays.values())
        yield from (f"  {count:>{width},}  {why}" for why, count in list(stays.items())[:MOST_REASONS])
        if len(stays) > MOST_REASONS:
            yield f"  and {len(stays) - MOST_REASONS} more reasons; `sparsewood inspect` shows all"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _by_reason(barriers: Iterable[Barrier]) -> dict[str, int]:
    found: dict[str, int] = {}
    for barrier in barriers:
        found[str(barrier)] = found.get(str(barrier), 0) + barrier.parameters
    return dict(sorted(((why, count) for why, count in found.items() if count), key=lambda item: -item[1]))


def budget(report: ShrinkReport) -> list[str]:
    """What the budget allows, and what is left, in one line; none without a budget."""
    return [] if report.budget is None else [f"{report.budget}."]


def proven(report: ShrinkReport) -> str:
    """What the comparison with the masked network came to, in one line."""
    if report.max_difference is None:
        return "Not compared with the masked network (verify: false)."
    if report.exact:
        rounded = "" if report.rounding is None else f"; {report.rounding:.1g} with folded weights in their own dtype"
        return (
            "Computes what the masked network does: the largest relative difference of outputs is "
            f"{report.max_difference:.1g}{rounded} ({' and '.join(report.conditions)})."
        )
    rest = "" if report.proven is None else f" All other removals: {report.proven:.1g}."
    return (
        f"Differs from the masked network by {report.max_difference:.2g}, relative to the largest output, because for "
        f"{counted(len(report.inexact), 'group')} removing is not masking.{rest}"
    )


def inexact(report: ShrinkReport) -> Iterator[str]:
    """The groups for which removing is not masking, and the reasons; where nothing was compared, it may be exact."""
    by_reason: dict[str, list[str]] = {}
    for name, reasons in report.inexact.items():
        by_reason.setdefault(", ".join(reasons), []).append(name)
    if by_reason:
        yield NOT_MASKING if report.verified else PERHAPS_NOT_MASKING
        yield from (f"  {_listed(names)}: {reason}" for reason, names in by_reason.items())


def notes(report: ShrinkReport) -> list[str]:
    """What the comparison could not try."""
    return [f"Note: {note}" for note in report.notes]


def loading(root: Path, recipe: ShrinkRecipe) -> list[str]:
    """How the network is loaded again."""
    return [f"To load it, with a freshly built {recipe.model.name} of full size:", f'  sw.load("{root}", model=...)']


def title(recipe: ShrinkRecipe, report: ShrinkReport, data: str = "") -> str:
    """What was done to what, in one line."""
    total = sum(units for _, units in report.units.values())
    of = f"{data}, {recipe.model.name}" if data else recipe.model.name
    asked = f" for {report.budget.budget}" if report.budget is not None else ""
    return f"{of}: {report.removed:,} of {total:,} units go{asked}"


# ---------------------------------------------------------------- files


def model_there(root: Path) -> str | None:
    """The model whose small network an earlier command wrote; None if there is none, or nothing says which."""
    recipe = root / RECIPE
    if not (root / PLAN).is_file() or not recipe.is_file():
        return None
    try:
        tree = yamlfile.read(text_of(recipe), str(recipe)).value
    except SparsewoodError:
        return None
    model = tree["model"].value if isinstance(tree, dict) and "model" in tree else None
    name = model["name"].value if isinstance(model, dict) and "name" in model else model
    return name if isinstance(name, str) else None


def save_network(root: Path, outcome: Outcome) -> tuple[int, int]:
    """Write the small network; bytes of the file that the dense one would have, and of that which was written.

    What an earlier command said about the network that lay there is removed first.
    """
    with tempfile.TemporaryDirectory(dir=writable_directory(root), prefix=".dense-") as directory:
        save(outcome.dense, directory)
        before = (Path(directory) / WEIGHTS).stat().st_size
    for name in (SUMMARY, TABLE, RECIPE):
        (root / name).unlink(missing_ok=True)
    save(outcome.shrunk.model, root)
    return before, (root / WEIGHTS).stat().st_size


def write_all(root: Path, recipe: ShrinkRecipe, found: Sequence[Row], values: Mapping[str, Any]) -> list[Path]:
    """What there is to say about the network, each file complete or not at all, the summary last; all paths."""
    write_text(root / RECIPE, effective_shrink_recipe(recipe))
    write_text(root / TABLE, to_csv(found))
    write_json(root / SUMMARY, values)
    return [root / name for name in (WEIGHTS, PLAN, TABLE, SUMMARY, RECIPE)]


def preview_values(recipe: ShrinkRecipe, report: ShrinkReport, found: Sequence[Row]) -> dict[str, Any]:
    """What a preview says, as JSON values."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "preview": True,
        "recipe": recipe.name,
        "model": recipe.model.name,
        "budget": None if report.budget is None else {**asdict(report.budget), "budget": str(report.budget.budget)},
        "asked": report.asked,
        "removed": report.removed,
        "measures": [asdict(row) for row in found],
        "units": {name: {"before": units, "after": kept} for name, (kept, units) in report.units.items()},
        "inexact": {name: list(reasons) for name, reasons in report.inexact.items()},
        "held": dict(report.held),
        "stays": [{"why": why, "parameters": count} for why, count in _by_reason(report.barriers).items()],
    }


def all_values(
    recipe: ShrinkRecipe, outcome: Outcome, tested: Mapping[str, Evaluation], found: Sequence[Row], split: Split | None
) -> dict[str, Any]:
    """What shrinking did, as JSON values."""
    report = outcome.shrunk.report
    data = None if split is None else {"name": split.name, "note": split.note, "examples": split.sizes}
    return {
        **preview_values(recipe, report, found),
        "preview": False,
        "dataset": data,
        "inputs": outcome.inputs,
        "seed": recipe.seed,
        "verified": report.verified,
        "exact": report.exact,
        "max_difference": report.max_difference,
        "proven": report.proven,
        "conditions": list(report.conditions),
        "validation": {name: _evaluated(one) for name, one in outcome.validation.items()},
        "recovery": dict(outcome.notes),
        "test": {name: _evaluated(one) for name, one in tested.items()},
        "latency": {
            str(size): {"before": asdict(before), "after": asdict(after)}
            for size, (before, after) in outcome.latency.items()
        },
        "seconds": dict(report.seconds),
        "settings": written(recipe, ShrinkRecipe),
        "threads": recipe.threads,
        "versions": versions(),
        "machine": machine(),
    }


def _evaluated(one: Evaluation) -> dict[str, float]:
    return {"accuracy": one.top[1], "loss": one.loss, "samples": one.samples}
