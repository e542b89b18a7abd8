"""Global magnitude selection at scale: time and memory, side by side.

    python benchmarks/selection.py                     # ResNet-50 shapes (25.5 M), 100 M and 350 M weights
    python benchmarks/selection.py --sizes resnet50    # one of them

Every method gets the same weights, in a process of its own, removes 80 % of them globally by magnitude, and hands over
one boolean mask for each tensor. All methods of a size are called in turn, round by round, so that a change of the
machine's speed meets all of them. Time: the call alone. Memory: how far the peak resident size rises above what it was
before the call, over the size of the weights.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import sparsewood as sw

SPARSITY = 0.8
Shapes = list[tuple[int, ...]]


def resnet50() -> Shapes:
    """The weights of ResNet-50's convolutions and classifier (He et al. 2015)."""
    shapes: Shapes = [(64, 3, 7, 7)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                shapes.append((4 * width, inputs, 1, 1))
            inputs = 4 * width
    return [*shapes, (1000, 2048)]


def perceptron(width: int, layers: int) -> Shapes:
    """Square layers."""
    return [(width, width)] * layers


SIZES: dict[str, Callable[[], Shapes]] = {
    "resnet50": resnet50,
    "100M": lambda: perceptron(5000, 4),
    "350M": lambda: perceptron(5000, 14),
}


def network(shapes: Shapes) -> nn.Module:
    """Modules that hold weights of these shapes: normal, with a different spread in each."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for i, shape in enumerate(shapes):
        with torch.device("meta"):
            layer = nn.Linear(1, 1, bias=False)
        weight = torch.empty(shape).normal_(0, 0.02 + 0.001 * (i % 10), generator=generator)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layers.append(layer)
    return nn.Sequential(*layers)


def ours(model: nn.Module) -> list[Tensor]:
    """sparsewood.prune."""
    return list(sw.prune(model, sw.Magnitude(), SPARSITY, protect_classifier=False).values())


def torch_global(model: nn.Module) -> list[Tensor]:
    """torch.nn.utils.prune.global_unstructured, its masks made boolean."""
    modules: list[Any] = [module for module in model.modules() if isinstance(module, nn.Linear)]
    torch_prune.global_unstructured(
        [(module, "weight") for module in modules], torch_prune.L1Unstructured, amount=SPARSITY
    )
    return [module.weight_mask.bool() for module in modules]


def concatenate_kthvalue(model: nn.Module) -> list[Tensor]:
    """torch.cat of |w|, torch.kthvalue, compare."""
    weights = [p.detach() for p in model.parameters()]
    scores = torch.cat([w.abs().reshape(-1) for w in weights])
    threshold = torch.kthvalue(scores, round(SPARSITY * scores.numel())).values
    return [w.abs() > threshold for w in weights]


def numpy_partition(model: nn.Module) -> list[Tensor]:
    """numpy.concatenate of |w|, in-place partition, compare."""
    weights = [p.detach() for p in model.parameters()]
    scores = np.concatenate([np.abs(w.numpy()).reshape(-1) for w in weights])
    place = round(SPARSITY * scores.size)
    scores.partition(place)
    threshold = float(scores[place])
    return [w.abs() >= threshold for w in weights]


def read_once(model: nn.Module) -> list[Tensor]:
    """One plain read of all weights: no selection can be faster."""
    for p in model.parameters():
        p.sum()
    return []


METHODS = {
    "sparsewood.prune": ours,
    "numpy concatenate + partition": numpy_partition,
    "torch concatenate + kthvalue": concatenate_kthvalue,
    "torch.nn.utils.prune.global_unstructured": torch_global,
    "read all weights once (floor)": read_once,
}
# Takes 13 times the memory of the weights and a minute or more: called less often, and, from this many weights on, once
# and alone, when the other processes have ended.
HEAVY = "torch.nn.utils.prune.global_unstructured"
HEAVY_CALLS = 2
ALONE_FROM = 200_000_000


def peak_bytes() -> int:
    """The highest resident size since it was last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("The kernel reports no VmHWM; this benchmark needs Linux.")


def worker(method: str, size: str, threads: int) -> None:
    """Serve: for each line read, run once and print seconds, peak rise and number kept."""
    torch.set_num_threads(threads)
    model = network(SIZES[size]())
    METHODS[method](network([(64, 64)]))  # first-use costs: imports, thread pools
    for _ in sys.stdin:
        for module in model.modules():
            if hasattr(module, "weight_mask"):
                torch_prune.remove(module, "weight")
        ctypes.CDLL(None).malloc_trim(0)  # what earlier work freed must not hide what this call takes
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_bytes()
        start = time.perf_counter()
        masks = METHODS[method](model)
        seconds = time.perf_counter() - start
        kept = sum(int(mask.count_nonzero()) for mask in masks)
        print(json.dumps({"seconds": seconds, "bytes": peak_bytes() - before, "kept": kept}), flush=True)


def measure(size: str, rounds: int, threads: int) -> dict[str, list[dict[str, float]]]:
    """`rounds` calls of every method, in turn; the processes that wait do nothing."""
    alone = sum(math.prod(shape) for shape in SIZES[size]()) >= ALONE_FROM
    results: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    with contextlib.ExitStack() as stack:
        names = [name for name in METHODS if not (alone and name == HEAVY)]
        processes = {name: stack.enter_context(start(name, size, threads)) for name in names}
        for number in range(rounds):
            for name in names:
                if number < (HEAVY_CALLS if name == HEAVY else rounds):
                    results[name] += ask(processes[name])
        for process in processes.values():
            end(process)
    if alone:
        with start(HEAVY, size, threads) as process:
            results[HEAVY] += ask(process)
            end(process)
    return results


def start(method: str, size: str, threads: int) -> subprocess.Popen[str]:
    """A process that serves one method."""
    command = [sys.executable, __file__, "--worker", method, "--sizes", size, "--threads", str(threads)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str]) -> list[dict[str, float]]:
    """One call; nothing if the process died, as it does when memory runs out."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    line = process.stdout.readline()
    return [json.loads(line)] if line else []


def end(process: subprocess.Popen[str]) -> None:
    """Let a process go."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def show(size: str, results: dict[str, list[dict[str, float]]]) -> None:
    """One table."""
    total = sum(math.prod(shape) for shape in SIZES[size]())
    numpy_time = statistics.median(run["seconds"] for run in results["numpy concatenate + partition"])
    kept = total - round(SPARSITY * total)
    table = Table(title=f"{size}: {total:,} weights, {SPARSITY:.0%} removed, so {kept:,} to keep")
    for title in ("method", "calls", "kept", "median s", "min s", "x numpy", "peak memory / weights"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for name in METHODS:
        if not results[name]:
            table.add_row(name, "0", "-", "died", "", "", "")
            continue
        seconds = [run["seconds"] for run in results[name]]
        rise = statistics.median(run["bytes"] for run in results[name]) / (4 * total)
        counts = {int(run["kept"]) for run in results[name]}
        table.add_row(
            name,
            str(len(seconds)),
            "-" if counts == {0} else ", ".join(f"{count:,}" for count in counts),
            f"{statistics.median(seconds):.3f}",
            f"{min(seconds):.3f}",
            f"{statistics.median(seconds) / numpy_time:.2f}",
            f"{rise:.2f}",
        )
    Console(width=120).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--worker", choices=list(METHODS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        worker(options.worker, options.sizes[0], options.threads)
        return
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} CPUs, {options.threads} threads, "
        f"torch {torch.__version__}, numpy {np.__version__}"
    )
    for size in options.sizes:
        show(size, measure(size, options.rounds, options.threads))


if __name__ == "__main__":
    main()
