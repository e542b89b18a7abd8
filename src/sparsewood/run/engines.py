"""Where the cells of a sweep are carried out: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import random
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

from sparsewood.errors import SparsewoodError
from sparsewood.run.sweep_worker import Order, start_process, told, work

__all__ = ["Done", "Engine", "LocalEngine", "RayEngine"]

PASSED_ON = ("SPARSEWOOD_DATA", "OMP_NUM_THREADS", "PYTHONPATH")


@dataclass(frozen=True)
class Done:
    """What became of a cell: its row, or why there is none."""

    hash: str
    row: dict[str, Any] | None
    error: str | None = None


class Engine(Protocol):
    """Carries out cells, at most `slots` at a time."""

    @property
    def slots(self) -> int: ...

    def begin(self, cell_hash: str) -> None: ...
    def wait(self, seconds: float) -> list[Done]: ...
    def close(self) -> None: ...


class LocalEngine:
    """Processes of this machine, one for each slot, so that one that ends without a word takes nobody with it.

    `memory` bounds each process, in bytes.
    """

    def __init__(self, order: Order, jobs: int, memory: int | None) -> None:
        self._order, self._memory = order, memory
        self._free = [self._slot() for _ in range(jobs)]
        self._running: dict[Future[dict[str, Any]], tuple[str, ProcessPoolExecutor]] = {}
        self._jobs = jobs

    @property
    def slots(self) -> int:
        """How many cells are carried out at a time."""
        return self._jobs

    def begin(self, cell_hash: str) -> None:
        """Start a cell; there must be a free slot."""
        slot = self._free.pop()
        try:
            future = slot.submit(work, self._order, cell_hash)
        except BrokenProcessPool:  # it was killed while it had nothing to do
            slot = self._slot()
            future = slot.submit(work, self._order, cell_hash)
        self._running[future] = (cell_hash, slot)

    def wait(self, seconds: float) -> list[Done]:
        """The cells that ended within `seconds`, as soon as there is one."""
        finished, _ = wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        return [self._ended(future) for future in finished]

    def _ended(self, future: Future[dict[str, Any]]) -> Done:
        cell_hash, slot = self._running.pop(future)
        try:
            row = future.result()
        except BrokenProcessPool:
            slot.shutdown(wait=False)
            self._free.append(self._slot())
            return Done(cell_hash, None, "Its process ended without a word (killed, or out of memory?).")
        except Exception as error:
            self._free.append(slot)
            return Done(cell_hash, None, told(error))
        self._free.append(slot)
        return Done(cell_hash, row)

    def close(self) -> None:
        """End all processes, whatever they do."""
        slots = [*self._free, *(slot for _, slot in self._running.values())]
        for slot in slots:
            processes = list((slot._processes or {}).values())
            slot.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(timeout=10)

    def _slot(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, context, start_process, (os.getpid(), self._memory))


class RayEngine:
    """Workers of a Ray cluster: the one at `address`, or one of this machine's cores that ends with the sweep.

    Every machine of the cluster must have sparsewood and the data sets, and see the directory of the sweep at the same
    path. A worker that dies is replaced, and its cell tried `retries` times more.
    """

    def __init__(
        self, order: Order, jobs: int | None, address: str | None, memory: int | None, retries: int = 1
    ) -> None:
        ray = _ray()
        self._before = (dict(os.environ), random.getstate())  # Ray sets variables, and draws numbers
        ray.init(log_to_driver=False, logging_level="ERROR", **_cluster(jobs, address))
        self._ray = ray
        options: dict[str, Any] = {"num_cpus": 1, "max_retries": retries}
        if memory is not None:
            options["memory"] = memory
        self._work = ray.remote(**options)(work)
        self._order = ray.put(order)
        self._running: dict[Any, str] = {}
        self._slots = jobs or max(int(ray.cluster_resources().get("CPU", 1)), 1)

    @property
    def slots(self) -> int:
        """How many cells are carried out at a time."""
        return self._slots

    def begin(self, cell_hash: str) -> None:
        """Hand a cell to the cluster."""
        self._running[self._work.remote(self._order, cell_hash)] = cell_hash

    def wait(self, seconds: float) -> list[Done]:
        """The cells that ended within `seconds`, as soon as there is one."""
        if not self._running:
            return []
        finished, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [self._ended(reference) for reference in finished]

    def _ended(self, reference: Any) -> Done:
        cell_hash = self._running.pop(reference)
        try:
            return Done(cell_hash, self._ray.get(reference))
        except self._ray.exceptions.RayTaskError as error:
            return Done(cell_hash, None, told(error.cause or error))
        except self._ray.exceptions.RayError as error:
            return Done(cell_hash, None, f"Its worker was lost ({type(error).__name__}).")

    def close(self) -> None:
        """Leave the cluster, or end the one that was started here."""
        for reference in self._running:
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
        self._ray.shutdown()
        variables, state = self._before
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        random.setstate(state)


def _cluster(jobs: int | None, address: str | None) -> dict[str, Any]:
    """How to reach a cluster, whose workers get the variables that matter; or one that is started here and has them."""
    if address is None:
        os.environ.setdefault("RAY_worker_niceness", "0")  # nothing but these workers is to be done here
        return {"num_cpus": jobs or os.cpu_count(), "include_dashboard": False}
    return {
        "address": address,
        "runtime_env": {"env_vars": {name: os.environ[name] for name in PASSED_ON if name in os.environ}},
    }


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise SparsewoodError(
            "--engine ray needs Ray, which is not installed. Run: pip install 'sparsewood[ray]'"
        ) from error
