"""Network slimming (Liu et al. 2017, https://arxiv.org/abs/1708.06519): a network of 784-500-300-10 on MNIST.

Both hidden layers have BatchNorm, scales starting at 0.5. The network is trained with an L1 penalty on the scales, the
units with the smallest scales go, whole, both layers together, until at most `--left` of the parameters are there, and
what is left is trained on without the penalty. Beside it: the same from a training without the penalty, units chosen
by the L1 norm of their weights or at random, down to as many parameters; the small network that slimming found, from
new weights, for as many epochs in all; and the dense networks, trained on as long. SGD with momentum 0.9, Nesterov,
batch 256, weight decay 1e-4, cosine in each part. The weights of the last step count. Strength and learning rate are
chosen with `--part validation`, which never opens the test images.

    python benchmarks/slimming.py --data-dir DIR
    python benchmarks/slimming.py --data-dir DIR --part validation --seeds 1 --methods slimming --strengths 1e-4 1e-2
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cells import shown
from torch import nn

import sparsewood as sw
from sparsewood.data.loader import Loader
from sparsewood.data.part import Part
from sparsewood.measurement import compare_latency
from sparsewood.penalties import ScaleL1
from sparsewood.unit_criteria import FilterNorm

WIDTHS = (500, 300)
CHOICES: dict[str, tuple[Any, bool]] = {
    "slimming": (sw.BatchNormScale(), True),
    "L1 norm after the penalty": (FilterNorm(), True),
    "random after the penalty": (sw.Random(), True),
    "scales": (sw.BatchNormScale(), False),
    "L1 norm": (FilterNorm(), False),
    "random": (sw.Random(), False),
}
"""By what the units are chosen, and whether the network was trained with the penalty."""


@dataclass(frozen=True)
class Row:
    """What is printed of one network: errors in percent, the hidden widths, and shrink's proof."""

    before: float | None
    error: float
    parameters: int
    widths: tuple[int, ...] = WIDTHS
    difference: float | None = None
    speedup: float | None = None


def perceptron(widths: Sequence[int], seed: int) -> nn.Sequential:
    sizes = (784, *widths)
    layers: list[nn.Module] = [nn.Flatten()]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for inputs, outputs in zip(sizes, widths, strict=False):
            norm = nn.BatchNorm1d(outputs)
            nn.init.constant_(norm.weight, 0.5)  # as published
            layers += [nn.Linear(inputs, outputs), norm, nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))


def train(model: nn.Module, part: Part, seed: int, epochs: int, lr: float, penalty: ScaleL1 | None = None) -> None:
    optimizer = sw.train.SGD(lr, weight_decay=1e-4, nesterov=True)
    training = sw.train.Training(epochs, batch_size=256, optimizer=optimizer, penalty=penalty, select="last")
    sw.train.fit(model, Loader(part, 256, seed=seed), training, seed=seed)


def error(model: nn.Module, part: Part) -> float:
    return 100 * (1 - sw.measurement.evaluate(model, Loader(part, 1000)).top[1])


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True, eq=False)
class Experiment:
    """All networks of one seed; rows by name."""

    train: Part
    measured: Part
    seed: int
    how: argparse.Namespace

    def rows(self) -> dict[str, Row]:
        found: dict[str, Row] = {}
        for strength in (None, *self.how.strengths):
            shown = "" if strength is None else f" {strength:g}"
            penalty = None if strength is None else ScaleL1(strength)
            names = [name for name in self.how.methods if CHOICES[name][1] == (penalty is not None)]
            if not names and penalty is not None:
                continue
            dense = perceptron(WIDTHS, self.seed)
            train(dense, self.train, self.seed, self.how.epochs, self.how.lr, penalty)
            found["dense" + (f", penalty{shown}" if shown else "")] = self.tuned(dense)
            for name in names:
                found[name + shown] = self.pruned(dense, name)
                if name == "slimming":
                    found["the same from new weights" + shown] = self.scratch(found[name + shown].widths)
        for name, row in found.items():
            print(f"# seed {self.seed}, {name}: {row}", file=sys.stderr, flush=True)
        return found

    def tuned(self, dense: nn.Module) -> Row:
        """The control: trained on as long as the others."""
        model, before = copy.deepcopy(dense), error(dense, self.measured)
        train(model, self.train, 100 + self.seed, self.how.tuning, self.how.lr)
        return Row(before, error(model, self.measured), parameters(model))

    def pruned(self, dense: nn.Module, name: str) -> Row:
        inputs = self.train.batch(torch.arange(256))[0]
        shrunk = sw.shrink(
            dense, inputs, criterion=CHOICES[name][0], budget=sw.Params(self.how.left), normalize=False,
            generator=torch.Generator().manual_seed(self.seed),
        )  # fmt: skip
        assert shrunk.report.exact, shrunk.report
        small, before = shrunk.model, error(shrunk.model, self.measured)
        train(small, self.train, 100 + self.seed, self.how.tuning, self.how.lr)
        speedup = compare_latency(dense, small, inputs, repeats=200, seconds=20).ratio
        widths = tuple(layer.out_features for layer in small.modules() if isinstance(layer, nn.Linear))[:-1]
        difference = shrunk.report.max_difference
        return Row(before, error(small, self.measured), parameters(small), widths, difference, speedup)

    def scratch(self, widths: Sequence[int]) -> Row:
        model = perceptron(widths, 1000 + self.seed)
        train(model, self.train, self.seed, self.how.epochs + self.how.tuning, self.how.lr)
        return Row(None, error(model, self.measured), parameters(model), tuple(widths))


def mean(values: Sequence[float | None]) -> str:
    """Mean and sample standard deviation; "-" where there is nothing."""
    there = [value for value in values if value is not None]
    return shown(there) if there else "-"


def table(found: Sequence[dict[str, Row]], part: str) -> None:
    heads = (f"{part} error [%]", "before training on", "parameters", "hidden units", "max_difference", "speed-up")
    print(f"| network | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for name in found[0]:
        rows = [one[name] for one in found]
        differences = [row.difference for row in rows if row.difference is not None]
        cells = [
            mean([row.error for row in rows]),
            mean([row.before for row in rows]),
            f"{statistics.mean(row.parameters for row in rows):,.0f}",
            ", ".join(dict.fromkeys("-".join(map(str, row.widths)) for row in rows)),
            f"{max(differences):.0e}" if differences else "-",
            mean([row.speedup for row in rows]),
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where MNIST is; default: SPARSEWOOD_DATA")
    parser.add_argument("--methods", nargs="+", choices=tuple(CHOICES), default=list(CHOICES))
    parser.add_argument("--strengths", type=float, nargs="+", default=[3e-3], help="of the penalty")
    parser.add_argument("--left", type=float, default=1 - 0.844, help="of the parameters; 84.4 %% go as published")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--tuning", type=int, default=10, help="epochs after the removal")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--part", choices=("test", "validation"), default="test", help="whose errors are printed")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    split, began = sw.data.mnist(options.data_dir), time.perf_counter()
    measured = split.test.open() if options.part == "test" else split.validation
    found = [Experiment(split.train, measured, seed, options).rows() for seed in range(1, options.seeds + 1)]
    print(f"`python {' '.join(sys.argv)}`: {time.perf_counter() - began:.0f} s, PyTorch {torch.__version__}\n")
    table(found, options.part)


if __name__ == "__main__":
    main()
