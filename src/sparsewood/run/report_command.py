"""`sparsewood report`: from directories of results to a page, a report.json, and figures."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from sparsewood.errors import SparsewoodError
from sparsewood.files import writable_directory
from sparsewood.report.page import write_page
from sparsewood.report.table import Table
from sparsewood.run.directory import write_json
from sparsewood.run.gather import Gathered, gather
from sparsewood.run.show import show

__all__ = ["report_on"]

FORMATS = ("png", "svg")
INCOMPLETE = 1


def report_on(
    places: Sequence[Path], page: Path | None, *, figures: Path | None, title: str | None, strict: bool
) -> int:
    """Write what is asked for, and say what is missing; 0, or 1 if `strict` and something is.

    Raises `SparsewoodError` where there is nothing to report on, and for a page that cannot be written.
    """
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise SparsewoodError(f"-o must be an HTML file, such as {page.with_suffix('.html')}. Got '{page}'.")
    gathered = gather(places, title)
    study = gathered.study
    written = []
    if page is not None:
        writable_directory(page.parent)
        write_page(study, page)
        written.append(page)
    at = (page.parent if page is not None else places[0] if places[0].is_dir() else Path()) / "report.json"
    write_json(at, gathered.report)
    written.append(at)
    if figures is not None:
        written += _figures(gathered, figures)
    _tell(gathered)
    print("\nWritten:", *[f"  {path}" for path in written], sep="\n")
    sys.stdout.flush()
    return INCOMPLETE if strict and not gathered.report["complete"] else 0


def _figures(gathered: Gathered, directory: Path) -> list[Path]:
    from sparsewood.plot.study_figures import left_out, write_figures

    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    written = write_figures(gathered.study, writable_directory(directory), formats=FORMATS)
    for line in left_out(gathered.study):
        print(f"No figure of {line}", file=sys.stderr)
    print(f"{len(written)} files of figures in {directory}", file=sys.stderr)
    return [directory]


def _tell(gathered: Gathered) -> None:
    """Whether the tables are complete, and what they lack."""
    study = gathered.study
    print(f"{study.title}: {len(study.rows)} networks")
    if gathered.report["dry_run"]:
        print("DRY RUN: the numbers mean nothing.")
    for failure in study.failures[:20]:
        print(
            f"  missing: {failure.problem}: {failure.method} {failure.amount:g}x, seed {failure.seed}: {failure.error}"
        )
    if len(study.failures) > 20:
        print(f"  ... and {len(study.failures) - 20} more networks")
    if study.complete and not gathered.report["dry_run"]:
        print(f"Complete: all {len(study.checklist)} items of the checklist are there.")
        return
    print("Not complete, by the checklist of Blalock et al. 2020 (https://arxiv.org/abs/2003.03033):")
    rows = tuple((item.section, item.name, item.reason) for item in study.missing)
    if rows:
        show(
            Table(
                f"{len(rows)} of {len(study.checklist)} items are missing", ("section", "item", "what is missing"), rows
            )
        )
