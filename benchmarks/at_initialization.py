"""Accuracy against compression for five methods of pruning before training, down to a thousandth of the weights.

The network is fully connected, 784-100x6-10 with BatchNorm and ReLU, weights from N(0, 2 / fan_in), on MNIST: deep
enough that a method which empties a layer, or leaves weights that do not meet, ends at chance. All methods of a seed
have the same initial weights and batches; SNIP sees one batch of 100, GraSP 10 images of each class, both in eval mode,
and SynFlow none, in 100 steps. No layer has a floor. Training: SGD 0.1 with momentum 0.9, batch 100, weight decay 5e-4,
cosine; the weights of the last step count, and nothing is chosen by the test images. "connected" says in how many runs
a signal got through after pruning.

    python benchmarks/at_initialization.py --data-dir DIR
    python benchmarks/at_initialization.py --data-dir DIR --seeds 1 --epochs 1 --exponents 1 3
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch
from cells import shown
from snip import Images, images, trained
from torch import nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.criteria import GraSP, SynFlow
from sparsewood.data import balanced
from sparsewood.recipes import find_collapse
from sparsewood.recovery import VarianceScaling

METHODS: dict[str, tuple[sw.criteria.Criterion, int]] = {
    "random": (sw.Random(), 1),
    "magnitude": (sw.Magnitude(), 1),
    "SNIP": (sw.WeightTimesGradient(), 1),
    "GraSP": (GraSP(), 1),
    "SynFlow": (SynFlow(), 100),
}


def network(seed: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (784, *[100] * 5):
        layers += [nn.Linear(inputs, 100, bias=False), nn.BatchNorm1d(100), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(100, 10))
    VarianceScaling()(model, {}, torch.Generator().manual_seed(seed))
    return model


def pruned(model: nn.Module, method: str, exponent: float, train: Images, seed: int) -> sw.Masks:
    criterion, iterations = METHODS[method]
    generator = torch.Generator().manual_seed(1000 + seed)
    data: Any = [next(iter(train.batches(generator)))]
    if method == "GraSP":
        chosen = balanced(train.y, 10, generator)
        data = [(train.x[chosen], train.y[chosen])]
    return sw.prune(
        model, criterion, sw.Density(10**-exponent), data=data, loss=F.cross_entropy, iterations=iterations,
        min_units=0, protect_classifier=False, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where MNIST is; default: SPARSEWOOD_DATA")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--exponents", type=float, nargs="+", default=[1.0, 1.5, 2.0, 2.5, 3.0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.rate, options.lr, options.weight_decay = "cosine", 0.1, 5e-4
    torch.set_num_threads(1)
    split = sw.data.mnist(options.data_dir, validation=6000)
    data, began = (images(split.train), images(split.test.open())), time.perf_counter()
    found: dict[tuple[str, float], list[tuple[float, bool]]] = {}
    for seed in range(1, options.seeds + 1):
        for method, exponent in [("dense", 0.0), *((m, e) for m in options.methods for e in options.exponents)]:
            model = network(seed)
            masks = sw.Masks({}) if method == "dense" else pruned(model, method, exponent, data[0], seed)
            connected = find_collapse(model, masks, data[0].x[:1]).connected
            accuracy = 100 - trained(model, masks, data, seed, options)[-1]
            found.setdefault((method, exponent), []).append((accuracy, connected))
            print(f"# seed {seed}, {method} 10^{exponent:g}: {accuracy:.2f}, connected: {connected}", flush=True)
    print(f"\n`python {' '.join(sys.argv)}`: {time.perf_counter() - began:.0f} s, PyTorch {torch.__version__}\n")
    heads = [f"10^{exponent:g}" for exponent in options.exponents]
    print(f"| test accuracy [%] at compression | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for method in options.methods:
        cells = []
        for exponent in options.exponents:
            values = [accuracy for accuracy, _ in found[method, exponent]]
            connected = sum(alive for _, alive in found[method, exponent])
            whole = "" if connected == len(values) else f" ({connected} of {len(values)} connected)"
            cells.append(shown(values, 1) + whole)
        print(f"| {method} | {' | '.join(cells)} |")
    dense = [accuracy for accuracy, _ in found["dense", 0.0]]
    print(f"\ndense: {shown(dense, 1)}")


if __name__ == "__main__":
    main()
