"""SNIP on MNIST: LeNet-300-100 and LeNet-5-Caffe pruned before training, beside magnitude and random pruning.

Scores are connection sensitivities of one batch (`--score-batches`), of the very weights that are then trained. All
methods of a seed have the same initial weights and see the same batches in the same order. The defaults: weights from
N(0, 2 / fan_in), SGD 0.1 with momentum 0.9, batch 100, weight decay 5e-4, 54,000 images. Nothing is chosen by the test
images: the weights of the last step count. What choosing the best of 20 evaluations by the test images would have
reported is printed beside it ("best of 20"), because some published numbers are of that kind.

    python benchmarks/snip.py --data-dir DIR
    python benchmarks/snip.py --data-dir DIR --network lenet5 --sparsities 0.95 0.98 0.99 --epochs 6
    python benchmarks/snip.py --data-dir DIR --methods SNIP --sparsities 0.98 --epochs 120 --rate steps
    python benchmarks/snip.py --data-dir DIR --methods SNIP --sparsities 0.95 --part validation --lr 0.3
    python benchmarks/snip.py --data-dir DIR --seeds 1 --epochs 1 --sparsities 0.98
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from cells import shown
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.data.part import Part
from sparsewood.recovery import VarianceScaling

BATCH = 100
DECAY_EVERY = 25_000  # steps, in the paper
CRITERIA: dict[str, Callable[[], sw.criteria.Criterion]] = {
    "SNIP": sw.WeightTimesGradient,
    "magnitude": sw.Magnitude,
    "random": sw.Random,
}
METHODS = ("dense", *CRITERIA, "ticket")
RATES = {"lenet300": 0.1, "lenet5": 0.01}
"""Learning rates with which the dense networks train."""


@dataclass(frozen=True)
class Images:
    """All in memory: normalised pixels and labels."""

    x: Tensor
    y: Tensor

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=generator)
        for chosen in order[: len(order) // BATCH * BATCH].split(BATCH):
            yield self.x[chosen], self.y[chosen]


def images(part: Part) -> Images:
    x, y = part.batch(torch.arange(len(part)))
    return Images(x.to(memory_format=torch.channels_last), y)  # convolutions are a third faster so


def draw(model: nn.Module, scale: float, seed: int, *, truncated: bool = False) -> None:
    """Weights from N(0, scale / fan_in), biases 0; or of the same variance without what is beyond 2 deviations."""
    generator = torch.Generator().manual_seed(seed)
    VarianceScaling(scale)(model, {}, generator)
    for p in model.parameters():
        if truncated and p.dim() > 1:
            std = (scale / p[0].numel()) ** 0.5 / 0.8796  # a normal deviate within 2 deviations has 0.8796 of one
            nn.init.trunc_normal_(p, std=std, a=-2 * std, b=2 * std, generator=generator)


def network(name: str, scale: float, seed: int, *, truncated: bool = False) -> nn.Module:
    model = sw.models.lenet_300_100() if name == "lenet300" else sw.models.lenet5_caffe()
    draw(model, scale, seed, truncated=truncated)
    for parameter in model.parameters():
        if parameter.dim() == 4:  # as the images are
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def rate(kind: str, step: int, steps: int) -> float:
    if kind == "steps":
        return 0.1 ** (step // DECAY_EVERY)
    return 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def draw_biases(model: nn.Module, scale: float, seed: int) -> None:
    """From N(0, scale / length): what variance scaling makes of a vector."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.copy_(torch.randn(len(parameter), generator=generator) * (scale / len(parameter)) ** 0.5)


@torch.no_grad()
def error(model: nn.Module, data: Images) -> float:
    """In percent, in eval mode."""
    model.eval()
    wrong = sum(
        int((model(x).argmax(1) != y).sum()) for x, y in zip(data.x.split(1000), data.y.split(1000), strict=True)
    )
    return 100 * wrong / len(data.x)


def sgd(model: nn.Module, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)


def train(model: nn.Module, data: Images, seed: int, epochs: int, optimizer: Any, pruner: Any = None) -> None:
    """With a cosine from the optimizer's rate on; `pruner` is told of each step."""
    generator, steps, step = torch.Generator().manual_seed(seed), epochs * (len(data.x) // BATCH), 0
    first = optimizer.param_groups[0]["lr"]
    model.train()
    for _ in range(epochs):
        for x, y in data.batches(generator):
            for group in optimizer.param_groups:
                group["lr"] = first * rate("cosine", step, steps)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            step += 1
            if pruner is not None:
                pruner.step()


def trained(
    model: nn.Module, masks: sw.Masks, data: tuple[Images, Images], seed: int, how: argparse.Namespace
) -> list[float]:
    """The errors on `data[1]` at 20 moments of the training, the last at its end."""
    train, test = data
    optimizer = torch.optim.SGD(model.parameters(), lr=how.lr, momentum=how.momentum, weight_decay=how.weight_decay)
    steps, step, found = how.epochs * (len(train.x) // BATCH), 0, []
    moments = {round(steps * (i + 1) / 20) for i in range(20)}
    generator = torch.Generator().manual_seed(seed)
    with sw.enforce(model, masks, optimizer) if masks else nullcontext():
        for _ in range(how.epochs):
            for x, y in train.batches(generator):
                model.train()
                for group in optimizer.param_groups:
                    group["lr"] = how.lr * rate(how.rate, step, steps)
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                step += 1
                if step in moments:
                    found.append(error(model, test))
    return found


def pruned(
    model: nn.Module, method: str, sparsity: float, train: Images, seed: int, batches: int, *, biases: bool = False
) -> sw.Masks:
    """Masks of the network as it is: all weights compete, those of the last layer too; biases stay, unless `biases`."""
    generator = torch.Generator().manual_seed(seed)
    seen = [
        batch
        for _, batch in zip(range(batches), train.batches(torch.Generator().manual_seed(1000 + seed)), strict=False)
    ]
    before = [p.detach().clone() for p in model.parameters()]
    masks = sw.prune(
        model,
        CRITERIA[method](),
        sparsity,
        data=seen,
        loss=F.cross_entropy,
        include=["*.weight", "*.bias"] if biases else None,
        protect_classifier=False,
        generator=generator,
    )
    assert all(torch.equal(p, one) for p, one in zip(model.parameters(), before, strict=True)), "scored what is trained"
    return masks


def pruner_by(
    schedule: sw.schedules.Schedule, rounds: int, model: nn.Module, optimizer: Any, steps: int, *, protect: bool
) -> sw.Pruner:
    """Magnitude pruning by a schedule over the first three quarters of a training."""
    every = max(1, round(0.75 * steps / rounds))
    pruning = sw.Pruning(schedule=schedule, rounds=rounds, unit="step", every=every, protect_classifier=protect)
    return sw.Pruner(model, optimizer, pruning)


def ticket(model: nn.Module, sparsity: float, data: Images, seed: int, lr: float) -> sw.Masks:
    """Masks that need a training: of what is left when the network is trained for 12 epochs and pruned in 12 more."""
    model, epochs = copy.deepcopy(model), 12
    train(model, data, 4000 + seed, epochs, sgd(model, lr))
    optimizer, steps = sgd(model, lr), epochs * (len(data.x) // BATCH)
    pruner = pruner_by(sw.schedules.Cubic(sparsity), 30, model, optimizer, steps, protect=False)
    train(model, data, 5000 + seed, epochs, optimizer, pruner)
    return pruner.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where MNIST is; default: SPARSEWOOD_DATA")
    parser.add_argument("--network", choices=("lenet300", "lenet5"), default="lenet300")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["dense", *CRITERIA])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9, 0.95, 0.98, 0.99])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rate", choices=("cosine", "steps"), default="cosine", help="steps: x 0.1 every 25,000")
    parser.add_argument("--score-batches", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--init-scale", type=float, default=2.0, help="of the weights' variance, scale / fan_in")
    parser.add_argument("--mean", type=float, default=0.1307, help="taken off pixels in [0, 1]; 0 leaves margins at 0")
    parser.add_argument("--deviation", type=float, default=0.3081, help="that pixels are divided by")
    parser.add_argument("--part", choices=("test", "validation"), default="test", help="whose errors are printed")
    parser.add_argument("--held-out", type=int, default=6000, help="training images that are not trained on")
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--truncated", action="store_true", help="initial weights within 2 deviations")
    parser.add_argument("--redraw", action="store_true", help="train other weights than those that were scored")
    parser.add_argument("--biases", action="store_true", help="draw biases at random and prune them, too")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pixels = sw.data.Normalization((options.mean,), (options.deviation,))
    split = sw.data.mnist(options.data_dir, validation=options.held_out, normalization=pixels)
    measured = split.test.open() if options.part == "test" else split.validation
    data, began = (images(split.train), images(measured)), time.perf_counter()
    rows: dict[tuple[str, float], list[list[float]]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for method in options.methods:
            for sparsity in [0.0] if method == "dense" else options.sparsities:
                model = network(options.network, options.init_scale, seed, truncated=options.truncated)
                if options.biases:
                    draw_biases(model, options.init_scale, 2000 + seed)
                masks = sw.Masks({})
                if method == "ticket":
                    masks = ticket(model, sparsity, data[0], seed, RATES[options.network])
                elif method != "dense":
                    scored = options.score_batches
                    masks = pruned(model, method, sparsity, data[0], seed, scored, biases=options.biases)
                if options.redraw:
                    draw(model, options.init_scale, 3000 + seed, truncated=options.truncated)
                rows.setdefault((method, sparsity), []).append(trained(model, masks, data, seed, options))
                kept = {name: int(mask.sum()) for name, mask in masks.items()}
                last = rows[method, sparsity][-1][-1]
                print(f"# seed {seed}, {method} {sparsity:g}: error {last:.2f}, kept {kept}", flush=True)
    print(f"\n`python {' '.join(sys.argv)}`: {time.perf_counter() - began:.0f} s, PyTorch {torch.__version__}\n")
    print(f"| method | sparsity [%] | {options.part} error [%] | best of 20 [%] |\n|---|---:|---:|---:|")
    for (method, sparsity), runs in rows.items():
        print(f"| {method} | {100 * sparsity:g} | {shown([r[-1] for r in runs])} | {shown([min(r) for r in runs])} |")


if __name__ == "__main__":
    main()
