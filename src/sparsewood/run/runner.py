"""Running a recipe: in which order, in how many processes, and what happens when something stops."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sparsewood.errors import SparsewoodError
from sparsewood.run.bench import DENSE, Bench, load_split
from sparsewood.run.directory import read_json, write_json
from sparsewood.run.during import squeezed
from sparsewood.run.evaluation import evaluate_seed, fingerprints
from sparsewood.run.experiment import (
    IN_TRAINING,
    carry_out,
    control_name,
    numbered,
    round_name,
    train_dense,
)
from sparsewood.run.lengths import dense_trainings
from sparsewood.run.progress import Advance
from sparsewood.run.recipe import Recipe, Variant
from sparsewood.run.sharing_work import SHARED, pack_missing, tuning_of
from sparsewood.run.threads import threads

__all__ = ["Unit", "carry_out_all", "remaining_steps", "units"]

EVALUATION = "evaluation"
PREFIX = "variant "
SECONDS_BETWEEN_REPORTS = 0.25
SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class Unit:
    """Work that one process does by itself, after other units are done: (seed, name)."""

    seed: int
    name: str
    after: tuple[tuple[int, str], ...] = ()

    @property
    def key(self) -> tuple[int, str]:
        return (self.seed, self.name)


def units(recipe: Recipe, *, dry_run: bool = False) -> list[Unit]:
    """The dense networks, the variants, and at the very end the evaluation of all.

    Nothing is evaluated on the test part before everything is trained.
    """
    seeds = recipe.seeds[:1] if dry_run else recipe.seeds
    found = [Unit(seed, DENSE) for seed in seeds]
    # Whoever takes another variant's masks comes after it.
    variants = sorted(recipe.variants, key=lambda variant: len(recipe.sources(variant)))
    for seed in seeds:
        for variant in variants:
            before = [DENSE, *(PREFIX + source.name for source in recipe.sources(variant))]
            found.append(Unit(seed, PREFIX + variant.name, tuple((seed, name) for name in before)))
    trained = tuple(unit.key for unit in found)
    return [*found, *(Unit(seed, EVALUATION, trained) for seed in seeds)]


def carry_out_all(
    bench: Bench,
    *,
    again: Callable[[], Recipe],
    jobs: int = 1,
) -> dict[int, dict[str, list[dict[str, Any]]]]:
    """Do what is not done yet; what was evaluated of every seed. Whoever calls this holds the directory.

    `bench` is of any seed; `again` reads the recipe in a further process, where components of one's own must be found
    anew. What was finished before an error stays finished.
    """
    recipe, root = bench.recipe, bench.root
    todo = units(recipe, dry_run=bench.dry_run)
    if jobs > 1:
        _in_processes(Start(again, recipe.hash, root, bench.dry_run), todo, bench.advance, jobs)
    else:
        with threads(recipe.threads):
            for unit in todo:
                do(bench, unit)
    return {unit.seed: read_json(_evaluation(root, unit.seed)) for unit in todo if unit.name == EVALUATION}


def remaining_steps(bench: Bench) -> int:
    """About how many training steps are still to be done, for the progress shown."""
    recipe, total = bench.recipe, 0
    per_epoch = len(bench.loader(bench.training))
    for seed in recipe.seeds[:1] if bench.dry_run else recipe.seeds:
        one = replace(bench, seed=seed)
        total += 0 if one.stage(DENSE).done or not recipe.train_dense else one.training.epochs * per_epoch
        total += sum(_variant_steps(one, variant, per_epoch) for variant in recipe.variants)
    return total


def _variant_steps(bench: Bench, variant: Variant, per_epoch: int) -> int:
    follow = variant.pruning.recovery.follow
    tuned = follow.settings == "retraining"
    settings = bench.retraining(variant) if tuned else bench.training
    if variant.in_training:
        settings = squeezed(bench, variant, settings)[1]
        names = [IN_TRAINING]
    else:
        names = [round_name(n) for n, _ in numbered(variant.pruning) if variant.only is None or n in variant.only]
    names += [control_name(number + 1) for number in range(dense_trainings(variant))]
    left = [name for name in names if not bench.stage(variant.name, name).done]
    steps = len(left) * max(settings.epochs * per_epoch - follow.step, 0)
    tuning = tuning_of(bench, variant)
    if tuning is not None and not bench.stage(variant.name, SHARED).done:
        steps += tuning.epochs * len(bench.loader(tuning))
    return steps


def fabric_of(recipe: Recipe) -> Any:
    """What the trainings of a recipe run on; for several devices, `launch` it."""
    from sparsewood.train import make_fabric

    return make_fabric(recipe.device, recipe.devices, recipe.strategy, recipe.training.precision)


# ---------------------------------------------------------------- one unit


def do(bench: Bench, unit: Unit) -> None:
    """Carry out what is not done of one unit; `bench` is of any seed."""
    bench = replace(bench, seed=unit.seed)
    if unit.name == DENSE:
        train_dense(bench)
    elif unit.name == EVALUATION:
        _evaluate(bench)
    else:
        carry_out(bench, bench.recipe.variant(unit.name.removeprefix(PREFIX)))


def _evaluate(bench: Bench) -> None:
    path, of = _evaluation(bench.root, bench.seed), fingerprints(bench)
    # The first process decides for all, so that none waits for one that has nothing to do.
    if bench.agreed(not path.is_file() or read_json(path).get("of") != of):
        if bench.writes:
            write_json(path, {"of": of, **evaluate_seed(bench)})
        bench.together()
    elif bench.writes:
        pack_missing(bench)


def _evaluation(root: Path, seed: int) -> Path:
    return root / f"seed-{seed}" / "evaluation.json"


# ---------------------------------------------------------------- several processes


@dataclass(frozen=True)
class Start:
    """What a further process begins with."""

    recipe: Callable[[], Recipe]
    hash: str
    root: Path
    dry_run: bool


def _in_processes(start: Start, todo: list[Unit], advance: Advance, jobs: int) -> None:
    """Each unit in one of `jobs` processes, as soon as what it needs is done."""
    context = multiprocessing.get_context("spawn")
    reports: Any = context.Queue()
    waiting, done = list(todo), set[tuple[int, str]]()
    running: dict[Future[None], Unit] = {}
    with ProcessPoolExecutor(jobs, context, _start_worker, (start, reports, os.getpid())) as pool:
        try:
            while waiting or running:
                for unit in [u for u in waiting if done.issuperset(u.after)]:
                    waiting.remove(unit)
                    running[pool.submit(_work, unit)] = unit
                finished, _ = wait(running, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
                _pass_on(reports, advance)
                for future in finished:
                    unit = running.pop(future)
                    _result(future, unit)
                    done.add(unit.key)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _result(future: Future[None], unit: Unit) -> None:
    from concurrent.futures.process import BrokenProcessPool

    try:
        future.result()
    except BrokenProcessPool as error:
        raise SparsewoodError(
            f"The process that did {unit.name} of seed {unit.seed} ended without a word (out of memory?). Run the same "
            "command again to go on; with --jobs 1 an error is shown where it happens."
        ) from error


def _pass_on(reports: Any, advance: Advance) -> None:
    while True:
        try:
            doing, steps = reports.get_nowait()
        except queue.Empty:
            return
        advance(doing, steps)


_bench: Bench | Callable[[], Bench] | None = None


def _start_worker(start: Start, reports: Any, parent: int) -> None:
    global _bench  # noqa: PLW0603 - what a worker process is given when it starts has no other place
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _bench = partial(_made, start, reports)


def _made(start: Start, reports: Any) -> Bench:
    recipe = start.recipe()
    if recipe.hash != start.hash:
        raise SparsewoodError("The recipe was changed while its run began. Run the command again.")
    torch.set_num_threads(recipe.threads)
    advance = Ticker(reports.put)
    return Bench(recipe, load_split(recipe), start.root, recipe.seeds[0], fabric_of(recipe), advance, start.dry_run)


def _end_with(parent: int) -> None:
    """A worker whose parent was killed must not go on writing into a directory that nobody holds."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)


def _work(unit: Unit) -> None:
    global _bench  # noqa: PLW0603
    assert _bench is not None
    if not isinstance(_bench, Bench):
        _bench = _bench()  # here, not when the process starts, so that an error comes with its text
    do(_bench, unit)


class Ticker:
    """Gathers steps and reports them now and then, because a message for each would cost more than some steps."""

    def __init__(self, send: Callable[[tuple[str, int]], object]) -> None:
        self._send, self._steps, self._sent = send, 0, 0.0

    def __call__(self, doing: str, steps: int = 1, /) -> None:
        self._steps += steps
        if time.monotonic() - self._sent >= SECONDS_BETWEEN_REPORTS:
            self._send((doing, self._steps))
            self._steps, self._sent = 0, time.monotonic()
