"""Masks that change while training: LeNet-300-100 or LeNet-5-Caffe on MNIST at some sparsities, by nine methods.

Those that start dense (AGP, splicing, straight-through, movement, AC/DC, one-shot magnitude) go on from one network
trained for `--epochs`, and train for `--epochs` more; SET, RigL and random masks train from the initial weights for
both together, so that all train equally long. SGD with momentum 0.9, batch 100, weight decay 5e-4, learning rate 0.1
(LeNet-5: 0.01), cosine in each part; all weights compete, those of the last layer only with `--classifier`. The weights
of the last step count, and nothing is chosen by the test images.

    python benchmarks/during_training.py --data-dir DIR
    python benchmarks/during_training.py --data-dir DIR --network lenet5 --classifier --sparsities 0.9907
    python benchmarks/during_training.py --data-dir DIR --seeds 1 --epochs 1
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from cells import shown
from snip import BATCH, RATES, Images, error, images, network, pruner_by, sgd, train
from torch import nn

import sparsewood as sw
from sparsewood.dynamics import SET, Movement, RigL, Splicing, StraightThrough
from sparsewood.dynamics.base import Dynamics
from sparsewood.schedules import Alternating, Cubic, OneShot
from sparsewood.train import DynamicPruner

Start = Callable[[nn.Module, torch.optim.Optimizer, int, float], Any]


def scheduled(schedule: sw.schedules.Cubic | Alternating | OneShot, rounds: int, protect: bool) -> Start:
    """A schedule over the first three quarters of the training."""
    return lambda model, optimizer, steps, _: pruner_by(schedule, rounds, model, optimizer, steps, protect=protect)


def methods(sparsity: float, protect: bool = True) -> dict[str, tuple[bool, Start]]:
    """Whether it goes on from the dense network, and what prunes; the classifier is not, if it is to be protected."""

    def dynamic(rule: Callable[[float], Dynamics]) -> Start:
        return lambda model, optimizer, steps, sparsity: DynamicPruner(
            model, optimizer, rule(sparsity), steps=steps, protect_classifier=protect
        )

    random = sw.Pruning(criterion=sw.Random(), schedule=OneShot(sparsity), unit="step", protect_classifier=protect)
    return {
        "AGP": (True, scheduled(Cubic(sparsity), 30, protect)),
        "splicing": (True, dynamic(lambda s: Splicing(sparsity=s, every=50))),
        "straight-through": (True, dynamic(lambda s: StraightThrough(curve=Cubic(s), every=50))),
        "movement": (True, dynamic(lambda s: Movement(curve=Cubic(s), every=50))),
        "AC/DC": (True, scheduled(Alternating(sparsity), 7, protect)),
        "one-shot magnitude": (True, scheduled(OneShot(sparsity), 1, protect)),
        "RigL": (False, dynamic(RigL)),
        "SET": (False, dynamic(SET)),
        "random": (False, lambda model, optimizer, *_: sw.Pruner(model, optimizer, random)),
    }


def pruned(
    model: nn.Module,
    data: Images,
    seed: int,
    epochs: int,
    lr: float,
    *,
    start: Start | None = None,
    sparsity: float = 0.0,
) -> sw.Masks:
    """The masks at the end of a training in which `start` prunes; none without it."""
    optimizer = sgd(model, lr)
    pruner = None if start is None else start(model, optimizer, epochs * (len(data.x) // BATCH), sparsity)
    train(model, data, seed, epochs, optimizer, pruner)
    return sw.Masks({}) if pruner is None else pruner.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where MNIST is; default: SPARSEWOOD_DATA")
    parser.add_argument("--methods", nargs="+", choices=tuple(methods(0.5)), default=list(methods(0.5)))
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.95, 0.982])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--network", choices=tuple(RATES), default="lenet300")
    parser.add_argument("--classifier", action="store_true", help="prune the last layer, too")
    options = parser.parse_args()
    lr = RATES[options.network]
    torch.set_num_threads(1)
    split = sw.data.mnist(options.data_dir, validation=6000)
    data, test, began = images(split.train), images(split.test.open()), time.perf_counter()
    found: dict[tuple[str, float], list[float]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        initial = network(options.network, 2.0, seed)
        dense = copy.deepcopy(initial)
        pruned(dense, data, seed, options.epochs, lr)
        longer = copy.deepcopy(dense)
        pruned(longer, data, 100 + seed, options.epochs, lr)
        found.setdefault(("dense", 0.0), []).append(error(longer, test))
        for sparsity in options.sparsities:
            for name in options.methods:
                goes_on, start = methods(sparsity, not options.classifier)[name]
                model = copy.deepcopy(dense if goes_on else initial)
                epochs, order = (options.epochs, 100 + seed) if goes_on else (2 * options.epochs, seed)
                masks = pruned(model, data, order, epochs, lr, start=start, sparsity=sparsity)
                assert sw.masks.not_held(model, masks) is None
                assert masks.removed == round(sparsity * masks.total)
                found.setdefault((name, sparsity), []).append(error(model, test))
                print(f"# seed {seed}, {name} {sparsity:g}: {found[name, sparsity][-1]:.2f}", flush=True)
    print(f"\n`python {' '.join(sys.argv)}`: {time.perf_counter() - began:.0f} s, PyTorch {torch.__version__}\n")
    print(f"dense: {shown(found['dense', 0.0])}\n")
    heads = " | ".join(f"{100 * sparsity:g} %" for sparsity in options.sparsities)
    print(f"| test error [%] at sparsity | {heads} |\n|---|{'---:|' * len(options.sparsities)}")
    for name in options.methods:
        print(f"| {name} | {' | '.join(shown(found[name, sparsity]) for sparsity in options.sparsities)} |")


if __name__ == "__main__":
    main()
