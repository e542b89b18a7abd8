"""How long it takes to find the structure of a network, beside one forward pass and beside torch-pruning.

Each network has a process of its own, in which the contenders take turns: `sparsewood.structure.trace`, which includes
the groups; one forward pass (eval mode, no gradients); and, as long as the process is within its limit, torch-pruning's
dependency graph with all of its groups. `growth` repeats this for networks of 16 to 128 layers and fits the exponent
of seconds ~ layers^exponent.

    python benchmarks/trace.py
    python benchmarks/trace.py --only 'gqa*' --rounds 3 --limit 60
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OURS, FORWARD, THEIRS = "sparsewood", "forward", "torch-pruning"


# ---------------------------------------------------------------- networks


class Decoder(nn.Module):
    """A language model: `heads` heads of queries that share `kv_heads` heads of keys and values."""

    def __init__(self, layers: int, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.blocks = nn.ModuleList([_Block(width, heads, kv_heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, kv_heads * self.size)
        self.v, self.out = nn.Linear(width, kv_heads * self.size), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        y = self.norm1(x)
        q = self.q(y).view(b, n, self.heads, self.size).transpose(1, 2)
        k = self.k(y).view(b, n, self.kv_heads, self.size).transpose(1, 2)
        v = self.v(y).view(b, n, self.kv_heads, self.size).transpose(1, 2)
        if self.heads != self.kv_heads:
            times = self.heads // self.kv_heads
            k, v = (_repeated(part, times) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, -1))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def _repeated(x: Tensor, times: int) -> Tensor:
    """Every head `times` times in a row, as transformers does it."""
    b, heads, n, size = x.shape
    return x[:, :, None].expand(b, heads, times, n, size).reshape(b, heads * times, n, size)


class Concatenated(nn.Module):
    """Every layer reads all before it."""

    def __init__(self, layers: int, growth: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3 + growth * i, growth, 3, padding=1) for i in range(layers)])
        self.head = nn.Linear(3 + growth * layers, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x).relu()], 1)
        return self.head(x.mean((2, 3)))


class DenseBlock(nn.Module):
    """Every layer normalises and reads all before it, which are kept in a list, as in DenseNet."""

    def __init__(self, layers: int, growth: int = 8) -> None:
        super().__init__()
        widths = [3 + growth * i for i in range(layers + 1)]
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for width in widths[:-1]])
        self.layers = nn.ModuleList([nn.Conv2d(width, growth, 3, padding=1) for width in widths[:-1]])
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            features.append(layer(norm(torch.cat(features, 1)).relu()))
        return self.head(torch.cat(features, 1).mean((2, 3)))


class Residual(nn.Module):
    """A chain of residual blocks."""

    def __init__(self, layers: int, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.first = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(layers)])
        self.norm = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(layers)])
        self.second = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(layers)])
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for first, norm, second in zip(self.first, self.norm, self.second, strict=True):
            x = x + second(norm(first(x)).relu())
        return self.head(x.mean((2, 3)))


def _vision(name: str) -> tuple[nn.Module, Tensor]:
    from sparsewood.models.wheels import ensure_torchvision

    ensure_torchvision()
    from torchvision import models

    return models.get_model(name, weights=None), torch.randn(1, 3, 224, 224)


def _decoder(layers: int, width: int, heads: int, kv_heads: int) -> tuple[nn.Module, Tensor]:
    return Decoder(layers, width, heads, kv_heads), torch.randint(256, (1, 32))


def _image(model: nn.Module) -> tuple[nn.Module, Tensor]:
    return model, torch.randn(1, 3, 16, 16)


Maker = Callable[[], tuple[nn.Module, Any]]
NETWORKS: dict[str, Maker] = {
    **{
        name: lambda name=name: _vision(name)
        for name in ("resnet50", "densenet121", "vit_b_16", "convnext_tiny", "swin_t")
    },
    "decoder 12 x 768": lambda: _decoder(12, 768, 12, 12),
    "concat 64": lambda: _image(Concatenated(64)),
    "dense block 64": lambda: _image(DenseBlock(64)),
    **{f"gqa {n}": lambda n=n: _decoder(n, 256, 8, 2) for n in (2, 4, 8, 16)},
}
LAYERS = (16, 32, 64, 128)
GROWTH: dict[str, Callable[[int], tuple[nn.Module, Any]]] = {
    "residual": lambda layers: _image(Residual(layers)),
    "concat": lambda layers: _image(Concatenated(layers)),
    "gqa decoder": lambda layers: _decoder(layers, 128, 8, 2),
}


# ---------------------------------------------------------------- one process per network


def _work(name: str, rounds: int, with_theirs: bool) -> None:
    """Time the contenders in turns; every time is a line of JSON as soon as it is known."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kind, _, layers = name.partition("/")
    model, inputs = GROWTH[kind](int(layers)) if layers else NETWORKS[name]()
    model.eval()
    contenders = {OURS: _ours, FORWARD: _forward} | ({THEIRS: _theirs} if with_theirs else {})
    for number in range(rounds + 1):
        for contender, run in contenders.items():
            began = time.perf_counter()
            found = run(model, inputs)
            seconds = time.perf_counter() - began
            if number or contender == THEIRS:  # the first round warms up
                print(json.dumps([contender, seconds, found]), flush=True)


def _ours(model: nn.Module, inputs: Any) -> int:
    from sparsewood.structure import trace

    return len(trace(model, inputs).record.steps)


def _forward(model: nn.Module, inputs: Any) -> int:
    with torch.no_grad():
        model(inputs)
    return 0


def _theirs(model: nn.Module, inputs: Any) -> int:
    import torch_pruning

    graph = torch_pruning.DependencyGraph().build_dependency(model, inputs, verbose=False)
    return len(list(graph.get_all_groups()))


def _times(name: str, rounds: int, limit: int, *, with_theirs: bool) -> tuple[dict[str, list[float]], int, str]:
    """Seconds of each contender, operations in the trace, and why torch-pruning gave nothing."""
    times: dict[str, list[float]] = {}
    steps, why = 0, ""
    for theirs in (True, False) if with_theirs else (False,):
        command = [sys.executable, __file__, "--worker", name, "--rounds", str(rounds)] + ["--theirs"] * theirs
        output, problem = _run(command, limit)
        for contender, seconds, found in map(json.loads, output):
            times.setdefault(contender, []).append(seconds)
            steps = found if contender == OURS else steps
        if not problem:
            break
        why = why or problem
        if theirs:
            times.clear()
    return times, steps, why


def _run(command: list[str], limit: int) -> tuple[list[str], str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return [], f"> {limit} s"
    if done.returncode:
        return [], done.stderr.strip().splitlines()[-1][:60] if done.stderr.strip() else "failed"
    return [line for line in done.stdout.splitlines() if line.startswith("[")], ""


# ---------------------------------------------------------------- tables


def _table(names: list[str], rounds: int, limit: int) -> None:
    print(
        "| network | operations | trace ms | forward ms | trace / forward | torch-pruning ms | torch-pruning / trace |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in names:
        times, steps, why = _times(name, rounds, limit, with_theirs=True)
        if OURS not in times:
            print(f"| {name} | {why} | | | | | |")
            continue
        ours, forward = (statistics.median(times[one]) for one in (OURS, FORWARD))
        theirs = statistics.median(times[THEIRS]) if THEIRS in times else None
        their_columns = f"{1e3 * theirs:.0f} | {theirs / ours:.1f}" if theirs else f"{why} | "
        print(
            f"| {name} | {steps} | {1e3 * ours:.0f} | {1e3 * forward:.0f} | {ours / forward:.2f} | {their_columns} |",
            flush=True,
        )


def _growth(names: list[str], rounds: int, limit: int) -> None:
    print(f"\n| network | {' | '.join(f'{n} layers, ms' for n in LAYERS)} | us/operation | exponent |")
    print(f"|---|{'---:|' * (len(LAYERS) + 2)}")
    for name in names:
        found = [_times(f"{name}/{n}", rounds, limit, with_theirs=False) for n in LAYERS]
        medians = [statistics.median(times[OURS]) if OURS in times else math.nan for times, _, _ in found]
        each = 1e6 * medians[-1] / max(found[-1][1], 1)
        cells = " | ".join(f"{1e3 * median:.0f}" for median in medians)
        print(f"| {name} | {cells} | {each:.0f} | {_slope(medians):.2f} |", flush=True)


def _slope(seconds: list[float]) -> float:
    """The exponent of the least-squares line through log seconds over log layers."""
    x, y = [math.log(n) for n in LAYERS], [math.log(s) for s in seconds]
    middle_x, middle_y = statistics.fmean(x), statistics.fmean(y)
    return sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / sum((a - middle_x) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=120, help="seconds that a network's process may take")
    parser.add_argument("--only", metavar="PATTERN", default="*")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--theirs", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options.worker, options.rounds, options.theirs)
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, 1 thread, torch {torch.__version__}, "
        f"{datetime.datetime.now(datetime.UTC).date()}, medians of {options.rounds} rounds\n"
    )
    _table(fnmatch.filter(NETWORKS, options.only), options.rounds, options.limit)
    _growth(fnmatch.filter(GROWTH, options.only), options.rounds, options.limit)


if __name__ == "__main__":
    main()
