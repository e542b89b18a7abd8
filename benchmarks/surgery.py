"""Optimal brain surgeon on MNIST: one-shot pruning of LeNet-300-100 and LeNet-5 without labels, and with retraining.

Each weight but the classifier loses the same share at once. Magnitude and diagonal leave the other weights as they are,
block and exact update them, by what 1,000 training images show (one position for each, of convolutions 20; damp 0.01).
All methods of a seed start from the same dense network, trained with SGD, momentum 0.9, batch 100, weight decay 5e-4,
cosine. With `--retrain` networks are trained on afterwards with a tenth of the rate, masks held. The weights of the
last step count, and nothing is chosen by the test images.

    python benchmarks/surgery.py --data-dir DIR
    python benchmarks/surgery.py --data-dir DIR --network lenet5 --sparsities 0.8 0.9 0.95
    python benchmarks/surgery.py --data-dir DIR --sparsities 0.95 0.98 --retrain 2
"""

from __future__ import annotations

import argparse
import copy
import sys
import time

import torch
from cells import shown
from snip import BATCH, RATES, error, images, network, sgd, train
from torch import nn

import sparsewood as sw
from sparsewood.recovery import BlockSurgeon, DiagonalSurgeon, ExactSurgeon, surgeon
from sparsewood.recovery.surgery_solvers import Solver

METHODS: dict[str, Solver | None] = {
    "magnitude": None,
    "diagonal": DiagonalSurgeon(),
    "block": BlockSurgeon(),
    "exact": ExactSurgeon(),
}


def pruned(model: nn.Module, method: Solver | None, sparsity: float, seen: torch.Tensor) -> sw.Masks:
    if method is None:
        masks = sw.prune(model, sw.Magnitude(), scope=sw.PerLayer(), sparsity=sparsity)
        sw.apply_masks(model, masks)
    else:
        masks = surgeon(model, list(seen.split(BATCH)), sparsity=sparsity, method=method, samples=20).masks
    assert sw.masks.not_held(model, masks) is None
    assert all(mask.numel() - int(mask.sum()) == round(sparsity * mask.numel()) for mask in masks.values())
    return masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where MNIST is; default: SPARSEWOOD_DATA")
    parser.add_argument("--network", choices=tuple(RATES), default="lenet300")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.7, 0.8, 0.9, 0.95])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--retrain", type=int, default=0, help="epochs after pruning")
    parser.add_argument("--images", type=int, default=1000, help="that pruning sees")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    split = sw.data.mnist(options.data_dir, validation=6000)
    data, test, began = images(split.train), images(split.test.open()), time.perf_counter()
    lr, dense = RATES[options.network], list[float]()
    found: dict[tuple[str, float], list[tuple[float, float, float]]] = {}
    for seed in range(1, options.seeds + 1):
        start = network(options.network, 2.0, seed)
        train(start, data, seed, options.epochs, sgd(start, lr))
        dense.append(error(start, test))
        start.train()
        order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(1000 + seed))
        seen = data.x[order[: options.images]]
        for sparsity in options.sparsities:
            for name in options.methods:
                model, moment = copy.deepcopy(start), time.perf_counter()
                masks = pruned(model, METHODS[name], sparsity, seen)
                took = time.perf_counter() - moment
                at_once = error(model, test)
                if options.retrain:
                    optimizer = sgd(model, lr / 10)
                    with sw.enforce(model, masks, optimizer):
                        train(model, data, 100 + seed, options.retrain, optimizer)
                found.setdefault((name, sparsity), []).append((at_once, error(model, test), took))
                print(f"# seed {seed}, {name} {sparsity:g}: {found[name, sparsity][-1]}", flush=True)
    print(f"\n`python {' '.join(sys.argv)}`: {time.perf_counter() - began:.0f} s, PyTorch {torch.__version__}\n")
    print(f"dense: {shown(dense)}\n")
    heads = " | ".join(f"{100 * sparsity:g} %" for sparsity in options.sparsities)
    for title, which in [("test error [%]", 0), ("retrained", 1), ("seconds", 2)]:
        if which != 1 or options.retrain:
            print(f"| {title} at sparsity | {heads} |\n|---|{'---:|' * len(options.sparsities)}")
            for name in options.methods:
                cells = (shown([run[which] for run in found[name, sparsity]]) for sparsity in options.sparsities)
                print(f"| {name} | {' | '.join(cells)} |")
            print()


if __name__ == "__main__":
    main()
