"""Measured latency of networks made smaller in different ways: shrunk, 8 bits, both, and sparse kernels.

For each network, one process holds all variants and times those of one engine in turn, a pass each per round, one
thread, at batch 1 and 16; a speed-up is the ratio of medians to the dense network in the same engine. Beside it, in
brackets, is what part of the ratio of multiply-adds it is: 1.00 means faster by as much as there are fewer of them.

    shrunk          half of the units of every layer are gone, layers rounded to multiples of 16
    int8            weights and activations of 8 bits, a scale for each output, ranges from random images
    sparse kernels  95 % of the weights are 0 by magnitude; a layer is sparse where that was measured to pay at the
                    batch size (PyTorch; its dense network is the one with these zeros)

Weights are as initialised, so that this tells nothing of accuracy.

    python benchmarks/latency.py
    python benchmarks/latency.py --only 'm*' --rounds 5
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from shrink import head
from shrink_latency import CLOCKS, in_turn, network
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.exporting import Int8Network, onnx_model, session
from sparsewood.measurement.multiply_adds import count_macs
from sparsewood.onnx_graph import bytes_of_tensors, feeds

NETWORKS = ("resnet50", "vgg16_bn", "mobilenet_v2", "mlp")
BATCHES = (1, 16)
SPARSITY = 0.95
ONNX, EAGER = "onnxruntime", "PyTorch"


@dataclass(frozen=True)
class Variant:
    """A network in one engine: multiply-adds of one example, bytes of its tensors (None: they depend on the batch), and
    what runs it on a batch."""

    name: str
    engine: str
    macs: int
    bytes: int | None
    runner: Callable[[Tensor], Callable[[], Any]]


def built(name: str) -> tuple[nn.Module, Tensor]:
    if name != "mlp":
        return network(name)
    torch.manual_seed(0)
    wide = [nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 1000)]
    return nn.Sequential(*wide).eval(), torch.randn(1, 1024)


def in_onnxruntime(given: Any, x: Tensor) -> Callable[[], Any]:
    running = session(given, threads=1)
    fed = feeds(running, x)
    return lambda: running.run(None, fed)


def in_pytorch(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    def run() -> Any:
        with torch.inference_mode():
            return model(x)

    return run


def sparse(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    """The layers that are sparse depend on the batch size."""
    found = sw.sparse_kernels(model, x)
    print(f"batch {len(x)}: {len(found.replaced)} of {len(found.layers)} layers are sparse", flush=True)
    return in_pytorch(found.model, x)


def variants(model: nn.Module, x: Tensor) -> list[Variant]:
    small = sw.shrink(model, x, 0.5, scope=sw.PerLayer(), round_to=16, verify=False).model.eval()
    pruned = copy.deepcopy(model)
    sw.apply_masks(pruned, sw.prune(pruned, sw.Magnitude(), SPARSITY))
    calibration = [torch.randn(4, *x.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    macs, macs_small = count_macs(model, x).macs, count_macs(small, x).macs
    found = []
    for name, one, count in (("dense", model, macs), ("shrunk", small, macs_small)):
        exported = onnx_model(one, x)
        found.append(Variant(name, ONNX, count, bytes_of_tensors(exported), partial(in_onnxruntime, exported)))
    for name, one, count in (("int8", model, macs), ("shrunk, int8", small, macs_small)):
        small_numbers: Int8Network = sw.quantize_int8(one, calibration)
        left = [row.name for row in small_numbers.layers if not row.quantized]
        print(f"{name}: {len(small_numbers.layers) - len(left)} layers in 8 bits, left: {left}", flush=True)
        runner = partial(in_onnxruntime, small_numbers.model)
        found.append(Variant(name, ONNX, count, small_numbers.bytes, runner))
    nonzero, size = count_macs(pruned, x).macs_nonzero, 4 * sum(p.numel() for p in pruned.parameters())
    found.append(Variant("dense", EAGER, macs, size, partial(in_pytorch, pruned)))
    found.append(
        Variant("shrunk", EAGER, macs_small, 4 * sum(p.numel() for p in small.parameters()), partial(in_pytorch, small))
    )
    found.append(Variant("sparse kernels", EAGER, nonzero, None, partial(sparse, pruned)))
    return found


def table(name: str, rounds: int, clock: str) -> None:
    """Make all variants of a network, time them, print."""
    model, x = built(name)
    made = variants(model, x)
    times: dict[tuple[str, str, int], float] = {}
    for engine in (ONNX, EAGER):
        for batch in BATCHES:
            given = torch.randn(batch, *x.shape[1:], generator=torch.Generator().manual_seed(0))
            runs = {one.name: one.runner(given) for one in made if one.engine == engine}
            for variant, seconds in in_turn(runs, rounds, CLOCKS[clock]).items():
                times[engine, variant, batch] = statistics.median(seconds)
            del runs
            gc.collect()
    print(f"\n**{name}**\n")
    columns = " | ".join(f"batch {batch}: ms | speed-up (share)" for batch in BATCHES)
    print(f"| engine | variant | MB | dense / MACs | {columns} |\n|---|---|---:|---:|{'---:|' * 2 * len(BATCHES)}")
    for one in made:
        ratio, cells = made[0].macs / one.macs, []
        for batch in BATCHES:
            seconds = times[one.engine, one.name, batch]
            speedup = times[one.engine, "dense", batch] / seconds
            cells.append(f"{1e3 * seconds:.2f} | {speedup:.2f} ({speedup / ratio:.2f})")
        size = "" if one.bytes is None else f"{one.bytes / 1e6:.1f}"
        print(f"| {one.engine} | {one.name} | {size} | {ratio:.2f} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", metavar="PATTERN", default="*")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of this process, for a busy machine")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.worker:
        warnings.simplefilter("ignore")
        table(options.worker, options.rounds, options.clock)
        return
    print(head(options.rounds, options.clock), flush=True)
    for name in (one for one in NETWORKS if fnmatchcase(one, options.only)):  # each in a process of its own
        command = [sys.executable, __file__, "--worker", name, "--rounds", str(options.rounds)]
        subprocess.run([*command, "--clock", options.clock], check=True)


if __name__ == "__main__":
    main()
