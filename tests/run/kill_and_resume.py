"""Kill a run with SIGKILL at random moments until it is finished; compare with a run that was left alone.

    python tests/run/kill_and_resume.py --kills 20

prints when each attempt was killed and what it had done, and whether all results are the same, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

RECIPE = """
name: killed
data: digits
model: {name: small_conv, widths: [4, 8], hidden: 32, batch_norm: true}
training: {epochs: 12, batch_size: 64, optimizer: {name: SGD, lr: 0.05, momentum: 0.9}, mixup: 0.2}
pruning: {schedule: {name: Geometric, rate: 0.5}, rounds: 3}
variants:
  ticket: {pruning: {recovery: {name: Rewind, step: 20}}}
  tuned: {retraining: {epochs: 4, optimizer: Adam}}
  gradual: {pruning: {schedule: {name: Cubic, final: 0.9}, rounds: 5, unit: step, start: 10, every: 9}}
"""
RESULTS = ("results.csv", "pruning_results.csv", "masks_summary.csv", "metrics.json", "recipe.yaml")


@dataclass(frozen=True)
class Attempt:
    """One start of the command: how long it ran, whether it was killed, and how many stages were finished after it."""

    seconds: float
    killed: bool
    finished: int


def command(recipe: Path, jobs: int) -> list[str]:
    return [sys.executable, "-m", "sparsewood", "run", str(recipe), "--quiet", "--jobs", str(jobs)]


def left_alone(recipe: Path) -> Path:
    """The directory of a run that nobody kills."""
    subprocess.run(command(recipe, 1), check=True, cwd=recipe.parent, stdout=subprocess.DEVNULL)
    return directory(recipe)


def killed(recipe: Path, kills: int, seed: int, jobs: int = 1) -> tuple[Path, list[Attempt]]:
    """The directory of a run that is killed `kills` times, each time at a random moment of its work."""
    moments = random.Random(seed)
    attempts: list[Attempt] = []
    while not attempts or attempts[-1].killed:
        limit = None if len(attempts) >= kills else moments.uniform(0.0, 1.0)
        attempts.append(attempt(recipe, limit, jobs))
    return directory(recipe), attempts


def attempt(recipe: Path, limit: float | None, jobs: int) -> Attempt:
    """Start the command; kill it `limit` seconds after its directory shows that it is at work."""
    began = time.monotonic()
    process = subprocess.Popen(command(recipe, jobs), cwd=recipe.parent, stdout=subprocess.DEVNULL)
    was_killed = False
    if limit is not None:
        before = stamps(recipe)
        while process.poll() is None and stamps(recipe) == before:
            time.sleep(0.005)
        time.sleep(limit)
        was_killed = process.poll() is None
        process.kill()
    code = process.wait()
    assert was_killed or code == 0, f"the run ended with exit code {code}"
    done = len(list(recipe.parent.glob("runs/*/seed-*/**/done.json")))
    return Attempt(time.monotonic() - began, was_killed, done)


def stamps(recipe: Path) -> set[tuple[str, int]]:
    """The checkpoints and results that are there, by name and time."""
    found = [*recipe.parent.glob("runs/*/seed-*/**/*.safetensors"), *recipe.parent.glob("runs/*/*.csv")]
    stamped = set()
    for path in found:
        try:
            stamped.add((str(path), path.stat().st_mtime_ns))
        except FileNotFoundError:  # a checkpoint that a newer one has just replaced
            continue
    return stamped


def directory(recipe: Path) -> Path:
    (found,) = recipe.parent.glob("runs/killed-*")
    return found


def differences(one: Path, other: Path) -> list[str]:
    """The results that are not the same, bit for bit: tables, and the fingerprints of all weights."""
    found = [name for name in RESULTS if (one / name).read_bytes() != (other / name).read_bytes()]
    marks, others = (sorted(path.relative_to(d) for path in d.glob("seed-*/**/done.json")) for d in (one, other))
    if marks != others:
        return [*found, f"finished stages: {marks} and {others}"]
    for mark in marks:
        prints = [json.loads((d / mark).read_text())["fingerprint"] for d in (one, other)]
        if prints[0] != prints[1]:
            found.append(str(mark))
    return found


def write_recipe(where: Path) -> Path:
    where.mkdir(parents=True)
    path = where / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        alone = left_alone(write_recipe(Path(scratch) / "alone"))
        again, attempts = killed(write_recipe(Path(scratch) / "killed"), options.kills, options.seed, options.jobs)
        for number, one in enumerate(attempts, start=1):
            end = "killed" if one.killed else "came to its end"
            print(f"attempt {number:2}: {one.seconds:5.1f} s, {end}, {one.finished} stages finished")
        found = differences(alone, again)
        stages = len(list(again.glob("seed-*/**/done.json")))
    print(f"{sum(one.killed for one in attempts)} kills, {stages} stages; different: {', '.join(found) or 'nothing'}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
