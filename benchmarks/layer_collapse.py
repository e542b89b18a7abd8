"""Layer collapse: how far each method prunes an untrained network before a layer is empty or nothing gets through.

The network is VGG-16 for images of 32 x 32 with BatchNorm: 13 convolutions and one linear layer, weights drawn from
N(0, 2 / fan_in), 10 classes. All its weights compete, and no layer has a floor.
Compressions are 10^a, a in steps of 0.25, up to the largest that still leaves one weight for each layer. Of each method
are printed the largest a up to which every layer keeps a weight ("not empty") and a signal still gets from the inputs
to the outputs ("connected"), and the seconds that it took. Methods of one step are tried at every a, those of many
steps by bisection. SNIP and GraSP see images
of noise with uniform labels, so that the whole takes no data, or with --data-dir images of CIFAR-10, 10 of each class.

    python benchmarks/layer_collapse.py
    python benchmarks/layer_collapse.py --data-dir DIR --seeds 3
    python benchmarks/layer_collapse.py --methods SynFlow --exponents 5.75 6
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.criteria import Criterion, GraSP, SynFlow, WeightTimesGradient
from sparsewood.data import balanced
from sparsewood.recipes import find_collapse
from sparsewood.recipes.collapse import Collapse
from sparsewood.recovery import VarianceScaling

CLASSES, PER_CLASS = 10, 10


@dataclass(frozen=True)
class Method:
    """A criterion, and in how many steps it goes to each compression."""

    criterion: Criterion
    iterations: int = 1
    revive: bool = False


METHODS = {
    "random": Method(sw.Random()),
    "magnitude": Method(sw.Magnitude()),
    "SNIP, eval mode": Method(WeightTimesGradient()),
    "SNIP, train mode": Method(WeightTimesGradient("train")),
    "GraSP, eval mode": Method(GraSP()),
    "GraSP, train mode": Method(GraSP(mode="train")),
    "iterative SNIP": Method(WeightTimesGradient(), 20),
    "FORCE": Method(WeightTimesGradient(), 20, revive=True),
    "SynFlow, 1 step": Method(SynFlow()),
    "SynFlow": Method(SynFlow(), 100),
}


def network(seed: int) -> nn.Module:
    model = sw.models.vgg(16, classifier="gap")
    VarianceScaling(scale=2.0)(model, {}, torch.Generator().manual_seed(seed))
    return model


def images(directory: str | None, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if directory is None:
        x = torch.randn(CLASSES * PER_CLASS, 3, 32, 32, generator=generator)
        return x, torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    part = sw.data.cifar10(directory).train
    return part.batch(balanced(part.labels, PER_CLASS, generator))


def possible(model: nn.Module, exponents: list[float]) -> dict[float, sw.Count]:
    """How many of the weights go, for each exponent that leaves one weight for each layer."""
    total = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    layers = sum(p.dim() > 1 for p in model.parameters())
    kept = {exponent: round(total * 10**-exponent) for exponent in sorted(exponents)}
    return {exponent: sw.Count(total - keep) for exponent, keep in kept.items() if keep >= layers}


def chooser(model: nn.Module, method: Method, data: Any) -> Callable[[sw.Count], sw.Masks]:
    """What prunes to an amount; scores of one step are taken once."""
    given: dict[str, Any] = {"min_units": 0, "protect_classifier": False}
    if method.iterations > 1:
        given |= {"data": data, "loss": F.cross_entropy, "iterations": method.iterations, "revive": method.revive}
    elif method.criterion.needs:
        names = [name for name, p in model.named_parameters() if p.dim() > 1]
        given["statistics"] = sw.statistics.collect(model, data, method.criterion.needs, F.cross_entropy, names=names)
    return lambda amount: sw.prune(model, method.criterion, amount, **given)


def limits(model: nn.Module, method: Method, data: Any, exponents: list[float]) -> tuple[float, float]:
    """The largest exponents before the first layer is empty, and before the network is cut off."""
    amounts, choose = possible(model, exponents), chooser(model, method, data)
    at = list(amounts)

    @cache
    def found(place: int) -> Collapse:
        return find_collapse(model, choose(amounts[at[place]]), data[0][0][:1])

    holds: list[Callable[[int], bool]] = [lambda place: not found(place).empty, lambda place: found(place).connected]
    search = by_bisection if method.iterations > 1 else one_by_one
    full, connected = (at[place - 1] if place else 0.0 for place in (search(one, len(at)) for one in holds))
    return full, connected


def one_by_one(holds: Callable[[int], bool], count: int) -> int:
    return next((place for place in range(count) if not holds(place)), count)


def by_bisection(holds: Callable[[int], bool], count: int) -> int:
    low, high = 0, count  # the first place that does not hold, if those behind it do not either
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if holds(middle) else (low, middle)
    return low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where CIFAR-10 is; without it images are noise")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--exponents", type=float, nargs="+", default=[0.25 * i for i in range(1, 25)])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(1, options.seeds + 1):
        model = network(seed)
        data = [images(options.data_dir, seed)]
        for name in options.methods:
            began = time.perf_counter()
            full, connected = limits(model, METHODS[name], data, options.exponents)
            rows.setdefault(name, []).append((full, connected, time.perf_counter() - began))
            print(f"# seed {seed}, {name}: {rows[name][-1]}", flush=True)
    what = "CIFAR-10" if options.data_dir else "noise"
    print(f"\n`python {' '.join(sys.argv)}`: {what}, {options.seeds} seeds, PyTorch {torch.__version__}\n")
    print("| method | not empty up to 10^ | connected up to 10^ | seconds |\n|---|---:|---:|---:|")
    for name, runs in rows.items():
        columns = [", ".join(f"{run[i]:g}" for run in runs) for i in (0, 1)]
        print(f"| {name} | {' | '.join(columns)} | {sum(run[2] for run in runs) / len(runs):.0f} |")


if __name__ == "__main__":
    main()
