"""What a run shows and writes of small files: accuracy and bytes after each stage, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsewood.report.rows import Summary, summarize, to_csv
from sparsewood.report.table import Table
from sparsewood.run.directory import write_text
from sparsewood.run.sharing_work import FILE, SHARED, FileStage

__all__ = ["files_table", "read_stages", "write_stages"]


def read_stages(evaluations: dict[int, dict[str, list[dict[str, Any]]]]) -> list[FileStage]:
    """The stages from what the seeds noted; none where no variant shares weights."""
    return [FileStage(**row) for evaluation in evaluations.values() for row in evaluation.get("files", [])]


def write_stages(directory: Path, found: Sequence[FileStage]) -> list[Path]:
    """stages.csv; its path, and those of the files with the networks."""
    write_text(directory / "stages.csv", to_csv(list(found)))
    networks = dict.fromkeys(directory / f"seed-{one.seed}" / one.strategy / SHARED / FILE for one in found)
    return [directory / "stages.csv", *networks]


def files_table(found: Sequence[FileStage], title: str) -> Table:
    """Test accuracy in %, parameters that are not 0, bytes of the state and of the file, stage by stage."""
    groups: dict[tuple[str, str], list[FileStage]] = {}
    for one in found:
        groups.setdefault((one.strategy, one.stage), []).append(one)
    rows = tuple(
        (
            strategy,
            stage,
            _cell([100 * one.test_acc1 for one in members], 2),
            _cell([one.nonzero for one in members], 0),
            _cell([one.state_bytes for one in members], 0),
            _cell([one.file_bytes for one in members], 0),
            _cell([one.ratio for one in members], 1),
        )
        for (strategy, stage), members in groups.items()
    )
    return Table(title, ("variant", "stage", "test [%]", "non-zeros", "state [bytes]", "file [bytes]", "ratio"), rows)


def _cell(values: Sequence[float], digits: int) -> str:
    """Mean and deviation; the mean alone of one value, or of one that is the same in every seed."""
    summary: Summary = summarize(values)
    mean = f"{summary.mean:,.{digits}f}"
    return mean if not summary.std else f"{mean} +- {summary.std:,.{digits}f}"
