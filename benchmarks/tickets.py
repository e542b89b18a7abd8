"""How soon each network of a run has its lowest validation loss, and how good it is there and at the end.

The early-stopping criterion of Frankle and Carbin 2019, https://arxiv.org/abs/1803.03635, read from the notes that
`sparsewood run` leaves of each training; nothing is trained here. Validation is once an epoch, so steps are to within
one.

    sparsewood run recipes/mnist_lenet_ticket.yaml
    python benchmarks/tickets.py runs/mnist_lenet_ticket-*
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from sparsewood.report.rows import Summary, summarize

SEED = re.compile(r"seed-\d+")


@dataclass(frozen=True)
class Course:
    """One training: the step of the lowest validation loss, the loss and accuracy [%] there, and both at its end."""

    step: int
    loss: float
    accuracy: float
    last_loss: float
    last_accuracy: float

    @classmethod
    def read(cls, note: Path) -> Course:
        """From the note of a finished stage."""
        notes = json.loads(note.read_text(encoding="utf-8"))
        epochs = notes["epochs"]
        per_epoch = notes["steps"] // epochs[-1]["number"]
        low, last = min(epochs, key=lambda epoch: epoch["validation_loss"]), epochs[-1]
        return cls(
            low["number"] * per_epoch,
            low["validation_loss"],
            100 * low["validation_accuracy"],
            last["validation_loss"],
            100 * last["validation_accuracy"],
        )


def courses(directory: Path) -> dict[str, list[Course]]:
    """By "dense" or variant and round, over seeds."""
    found: dict[str, list[Course]] = {}
    for seed in sorted(path for path in directory.iterdir() if SEED.fullmatch(path.name)):
        for note in sorted(seed.rglob("done.json")):
            found.setdefault(str(note.parent.relative_to(seed)), []).append(Course.read(note))
    if not found:
        raise SystemExit(f"{directory} has no finished training. Give the directory that `sparsewood run` named.")
    return found


def cell(summary: Summary, digits: int) -> str:
    spread = "" if summary.std is None else f" +- {summary.std:.{digits}f}"
    return f"{summary.mean:.{digits}f}{spread}"


def table(found: dict[str, list[Course]]) -> list[str]:
    headers = ("training", "seeds", "step of lowest validation loss", "loss there", "accuracy there", "last loss")
    lines = [f"| {' | '.join([*headers, 'last accuracy'])} |", f"|---|{'---:|' * len(headers)}"]
    columns = (("step", 0), ("loss", 4), ("accuracy", 2), ("last_loss", 4), ("last_accuracy", 2))
    for name, members in found.items():
        cells = [cell(summarize([getattr(one, key) for one in members]), digits) for key, digits in columns]
        lines.append(f"| {' | '.join([name, str(len(members)), *cells])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="of a run")
    options = parser.parse_args()
    print(f"`{shlex.join(['python', *sys.argv])}`")
    print("Validation data, accuracy in %, mean +- sample standard deviation over seeds.\n")
    print("\n".join(table(courses(options.directory))))


if __name__ == "__main__":
    main()
