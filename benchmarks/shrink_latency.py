"""Measured latency beside multiply-adds: how much faster a network is once half of its units are gone, at batch 1.

For each network, one process holds the dense one and all variants, and times them in turn, one pass each per round, in
PyTorch as it is (eager), in torch.compile, and in onnxruntime (exported with torch.onnx.export). A speed-up is the
ratio of medians; beside it, in brackets, is what part of the ratio of multiply-adds it is: 1.00 means that the network
is faster by as much as it has fewer multiply-adds.

    python benchmarks/shrink_latency.py
    python benchmarks/shrink_latency.py --only resnet50 --engines onnxruntime --rounds 5 --variants 'global*'
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.measurement.multiply_adds import count_macs
from sparsewood.measurement.onnx_times import in_onnxruntime
from sparsewood.shrinking.engines import OnnxRuntime

NETWORKS = ("resnet50", "vgg16_bn", "mobilenet_v2")
ENGINES = ("eager", "compile", "onnxruntime")
DENSE = "dense"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds on the wall, or of the process: what one thread would take if it had a core to itself."""


def network(name: str) -> tuple[nn.Module, Tensor]:
    """The network as initialised, in eval mode, and one image."""
    from sparsewood.models.wheels import ensure_torchvision

    ensure_torchvision()
    from torchvision import models

    torch.manual_seed(0)
    return models.get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)


# ---------------------------------------------------------------- variants


def variants(model: nn.Module, x: Tensor) -> dict[str, Callable[[], nn.Module]]:
    """What is compared, by name; each makes a copy that is smaller."""
    from shrink_peer import halve

    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]

    def theirs(*, everywhere: bool) -> nn.Module:
        given = copy.deepcopy(model)
        return halve(given, x, ignored=[given.get_submodule(last)], everywhere=everywhere).model

    def ours(**options: Any) -> nn.Module:
        return sw.shrink(model, x, 0.5, verify=False, **options).model

    return {
        DENSE: lambda: model,
        "per layer 50 %": lambda: ours(scope=sw.PerLayer()),
        "per layer 50 %, round_to=16": lambda: ours(scope=sw.PerLayer(), round_to=16),
        "global 50 %": ours,
        "global 50 %, round_to=16": lambda: ours(round_to=16),
        "Latency(0.5) in PyTorch": lambda: ours(budget=sw.Latency(0.5)),
        "Latency(0.5) in onnxruntime": lambda: ours(budget=sw.Latency(0.5, engine=OnnxRuntime())),
        "torch-pruning, per layer 50 %": lambda: theirs(everywhere=False),
        "torch-pruning, global 50 %": lambda: theirs(everywhere=True),
    }


# ---------------------------------------------------------------- engines


def runner(engine: str, model: nn.Module, x: Tensor) -> Callable[[], Any]:
    """What runs the network once."""
    if engine == "onnxruntime":
        return in_onnxruntime(model, x)
    called = torch.compile(model) if engine == "compile" else model

    def run() -> Any:
        with torch.inference_mode():
            return called(x)

    return run


def in_turn(runs: dict[str, Callable[[], Any]], rounds: int, now: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each, timed one after the other in every round; two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):
        for name, run in runs.items():
            began = now()
            run()
            if number >= 2:
                times[name].append(now() - began)
    return times


# ---------------------------------------------------------------- tables


def table(name: str, rounds: int, engines: list[str], pattern: str, clock: str) -> None:
    """Make all variants of a network, time them, print."""
    model, x = network(name)
    made = variants(model, x)
    chosen = {one: make for one, make in made.items() if one == DENSE or fnmatchcase(one, pattern)}
    networks: dict[str, nn.Module] = {}
    for one, make in chosen.items():
        try:
            networks[one] = make().eval()
        except sw.SparsewoodError as error:
            print(f"{one}: {error}", file=sys.stderr, flush=True)
    macs = {one: count_macs(small, x).macs for one, small in networks.items()}
    times: dict[str, dict[str, list[float]]] = {}
    for engine in engines:
        print(f"{name}: {engine}", file=sys.stderr, flush=True)
        runs = {one: runner(engine, small, x) for one, small in networks.items()}
        times[engine] = in_turn(runs, rounds, CLOCKS[clock])
        del runs
        gc.collect()
    print(f"\n**{name}**\n")
    columns = [f"{engine} ms | speed-up (share)" for engine in engines]
    print(f"| variant | GMACs | dense / MACs | {' | '.join(columns)} |\n|---|---:|---:|{'---:|' * 2 * len(engines)}")
    for one in networks:
        ratio = macs[DENSE] / macs[one]
        cells = []
        for engine in engines:
            seconds = statistics.median(times[engine][one])
            speedup = statistics.median(times[engine][DENSE]) / seconds
            cells.append(f"{1e3 * seconds:.1f} | {speedup:.2f} ({speedup / ratio:.2f})")
        print(f"| {one} | {macs[one] / 1e9:.3f} | {ratio:.2f} | {' | '.join(cells)} |", flush=True)


def tables(only: str, rounds: int, engines: list[str], pattern: str, clock: str) -> None:
    """Every network in a process of its own."""
    for name in (one for one in NETWORKS if fnmatchcase(one, only)):
        command = [sys.executable, __file__, "--worker", name, "--rounds", str(rounds), "--clock", clock]
        subprocess.run([*command, "--engines", ",".join(engines), "--variants", pattern], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", metavar="PATTERN", default="*")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--variants", metavar="PATTERN", default="*")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of this process, for a busy machine")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    engines = [one for one in options.engines.split(",") if one]
    for one in engines:
        if one not in ENGINES or (one == "onnxruntime" and importlib.util.find_spec("onnxruntime") is None):
            parser.error(f"engine {one}: not one of {', '.join(ENGINES)}, or not installed")
    torch.set_num_threads(1)
    if options.worker:
        warnings.simplefilter("ignore")
        table(options.worker, options.rounds, engines, options.variants, options.clock)
        return
    from shrink import head

    print(head(options.rounds, options.clock), flush=True)
    tables(options.only, options.rounds, engines, options.variants, options.clock)


if __name__ == "__main__":
    main()
