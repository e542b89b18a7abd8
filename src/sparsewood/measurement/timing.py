"""Wall-clock time of one forward pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import Inputs, arguments, call, describe, to_model_device
from sparsewood.snapshot import untouched

__all__ = ["Latency", "LatencyComparison", "compare_latency", "latency", "time_in_turn"]


@dataclass(frozen=True)
class Latency:
    """Seconds for one forward pass: median and quartiles over `repeats` timed passes."""

    median: float
    q25: float
    q75: float
    repeats: int


@dataclass(frozen=True)
class LatencyComparison:
    """Latencies of two models, timed in turn."""

    first: Latency
    second: Latency

    @property
    def ratio(self) -> float:
        """Median of the first over median of the second: above 1 the second is that many times as fast."""
        return self.first.median / self.second.median


def latency(
    model: nn.Module, example_inputs: Inputs, *, repeats: int = 20, warmup: int = 3, seconds: float = 30.0
) -> Latency:
    """Time of `model(example_inputs)` in seconds, in eval mode and without gradients, on the model's device.

    After `warmup` untimed passes at most `repeats` are timed, fewer if warm-up and timing together would take longer
    than `seconds` (at least one of each runs; `Latency.repeats` says how many were timed). Accelerators are
    synchronised around every pass. Time depends on threads, clock speed and whatever else the machine does: compare
    models with `compare_latency`, and on a busy machine use fewer threads than cores (`torch.set_num_threads`), since
    threads that wait for one another can take a thousand times as long as a small model's arithmetic.

    Raises `SparsewoodError` for counts below one, for a model on the meta device, and if the model does not run.

    >>> timed = latency(nn.Linear(8, 8), torch.ones(4, 8), repeats=5)
    >>> timed.repeats, 0 < timed.q25 <= timed.median <= timed.q75
    (5, True)
    """
    return time_in_turn([model], example_inputs, repeats, warmup, seconds)[0]


def compare_latency(
    first: nn.Module,
    second: nn.Module,
    example_inputs: Inputs,
    *,
    repeats: int = 20,
    warmup: int = 3,
    seconds: float = 60.0,
) -> LatencyComparison:
    """Latencies of two models on the same inputs, timed in turn (first, second, first, second ...).

    What slows the machine down for a while slows both, so that `.ratio` is steadier than two separate measurements.
    Arguments and errors as for `latency`; `seconds` bounds both models together.

    >>> layer = nn.Linear(8, 8)
    >>> compare_latency(layer, layer, torch.ones(4, 8), repeats=5).ratio > 0
    True
    """
    timed = time_in_turn([first, second], example_inputs, repeats, warmup, seconds)
    return LatencyComparison(*timed)


def time_in_turn(
    models: Sequence[nn.Module], example_inputs: Inputs, repeats: int, warmup: int, seconds: float
) -> list[Latency]:
    """Latencies of several models on the same inputs, as `compare_latency` takes them of two."""
    if repeats < 1 or warmup < 1:
        raise SparsewoodError(f"latency needs repeats >= 1 and warmup >= 1. Got repeats={repeats}, warmup={warmup}.")
    deadline = time.perf_counter() + seconds
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for model in models:
            stack.enter_context(untouched(model))
        runs = [_timed_call(model, to_model_device(example_inputs, model)) for model in models]
        _rounds(runs, warmup, deadline)
        rounds = _rounds(runs, repeats, deadline)
    return [_summary(times) for times in zip(*rounds, strict=True)]


def _rounds(runs: Sequence[Callable[[], float]], count: int, deadline: float) -> list[list[float]]:
    done = [[run() for run in runs]]
    while len(done) < count and time.perf_counter() < deadline:
        done.append([run() for run in runs])
    return done


def _timed_call(model: nn.Module, inputs: Inputs) -> Callable[[], float]:
    devices = _devices(model, inputs)
    if any(device.type == "meta" for device in devices):
        raise SparsewoodError(
            f"{type(model).__name__} on ({describe(inputs)}) cannot be timed on the meta device, where nothing is "
            "computed. Move model and inputs to a real device, or measure with repeats=0."
        )
    accelerators = [device for device in devices if device.type != "cpu"]

    def run() -> float:
        _synchronize(accelerators)
        start = time.perf_counter()
        call(model, inputs)
        _synchronize(accelerators)
        return time.perf_counter() - start

    return run


def _devices(model: nn.Module, inputs: Inputs) -> set[torch.device]:
    leaves: list[Any] = tree_leaves(arguments(inputs))
    tensors = chain(model.parameters(), model.buffers(), (leaf for leaf in leaves if isinstance(leaf, Tensor)))
    return {tensor.device for tensor in tensors}


def _synchronize(accelerators: Sequence[torch.device]) -> None:
    for device in accelerators:
        torch.accelerator.synchronize(device)


def _summary(times: Sequence[float]) -> Latency:
    q25, median, q75 = np.quantile(times, [0.25, 0.5, 0.75])
    return Latency(float(median), float(q25), float(q75), len(times))
