"""Signal propagation in a deep perceptron that is pruned before its training, with and without isometry.

MLP-7 of width 100 on MNIST, 90 % of weights and biases removed by connection sensitivity over the whole training set,
SGD at 0.1 without momentum, batches of 100, 10,000 steps, penalty 0.00025 sum w^2: the protocol of Lee et al. 2020,
https://arxiv.org/abs/1906.06307. Per seed all networks start from the same weights and see the same batches in the
same order, and the two pruned ones have the same masks. Nothing is chosen: the networks of step 500 and of the last
step are kept, and the test images are looked at when all are trained.

    python benchmarks/signal_propagation.py --data-dir DIR
    python benchmarks/signal_propagation.py --data-dir DIR --seeds 1 --steps 500 --iterations 500 --activations tanh
"""

from __future__ import annotations

import argparse
import copy
import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from cells import shown
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.measurement import jacobian_singular_values
from sparsewood.recipes import prune_with_isometry, uniform_labels
from sparsewood.recovery import Isometry, Orthogonal, VarianceScaling, enforce_isometry
from sparsewood.recovery.drawing import Initializer
from sparsewood.seeds import generator_for

EARLY = 500
BATCH = 100
VALIDATION = 6000  # a tenth of the training images, as in the protocol; not looked at
INITIAL: dict[str, Initializer] = {
    "orthogonal": Orthogonal(),
    "lecun": VarianceScaling.lecun(),
    "glorot": VarianceScaling.glorot(),
    "he": VarianceScaling.he(),
}
WAYS = ("dense", "pruned", "+ isometry")


@dataclass(frozen=True)
class Trained:
    """One network of one seed: its mean singular value before training, and its weights early and at the end."""

    singular: float
    early: nn.Module
    last: nn.Module


Examples = tuple[Tensor, Tensor]
Cell = tuple[str, str, str]  # activation, initial weights, way


def tensors(name: str, options: argparse.Namespace) -> tuple[Examples, sw.data.Split]:
    """Training images [n, 784], standardised, their labels, and where they are from."""
    split = getattr(sw.data, name)(options.data_dir, validation=VALIDATION, train_size=options.train_size)
    x, y = split.train.batch(torch.arange(len(split.train)))
    return (x.flatten(1), y), split


def order(examples: int, steps: int, seed: int) -> Iterator[Tensor]:
    """The indices of every batch, in a new order each epoch."""
    done = epoch = 0
    while done < steps:
        drawn = torch.randperm(examples, generator=generator_for(seed, "order", epoch))
        for batch in drawn[: examples - examples % BATCH].split(BATCH)[: steps - done]:
            done += 1
            yield batch
        epoch += 1


def train(model: nn.Module, masks: Mapping[str, Tensor], data: Examples, steps: int, seed: int) -> nn.Module:
    """Train in place; returns a copy as of step 500."""
    x, y = data
    early = model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=5e-4)
    with sw.enforce(model, masks, optimizer):
        for step, batch in enumerate(order(len(x), steps, seed), start=1):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            if step == min(EARLY, steps):
                early = copy.deepcopy(model)
    return early


def networks(
    activation: str, initial: str, seed: int, data: Examples, scores: Examples,
    options: argparse.Namespace,
) -> dict[Cell, Trained]:  # fmt: skip
    """The dense network, the pruned one and the pruned one with isometry, of one seed."""
    dense = sw.models.mlp(7, 100, activation=activation)  # type: ignore[arg-type]
    INITIAL[initial](dense, {}, generator_for(seed, "weights"))
    pruned, isometric = copy.deepcopy(dense), copy.deepcopy(dense)
    masks = prune_with_isometry(
        pruned,
        list(zip(*(part.split(BATCH) for part in scores), strict=True)),
        loss=uniform_labels if options.scores == "uniform" else F.cross_entropy,
        sparsity=options.sparsity,
        include=[name for name, _ in dense.named_parameters()],
        isometry=Isometry(iterations=0),
    )
    print(f"seed {seed}, {activation}, {initial}: {enforce_isometry(isometric, masks, iterations=options.iterations)}",
          file=sys.stderr, flush=True)  # fmt: skip
    found = {}
    for way, model in zip(WAYS, (dense, pruned, isometric), strict=True):
        singular = jacobian_singular_values(model, [data[0]], examples=options.examples).mean
        early = train(model, {} if way == "dense" else masks, data, options.steps, seed)
        found[activation, initial, way] = Trained(singular, early, model)
        print(f"seed {seed}, {activation}, {initial}, {way}: trained", file=sys.stderr, flush=True)
    return found


def error(model: nn.Module, test: Sequence[Examples]) -> float:
    """Test error in %; NaN for a network whose training diverged."""
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        return math.nan
    return 100 - 100 * sw.evaluate(model, test, topk=(1,)).top[1]


def cell(values: Sequence[float], digits: int = 2) -> str:
    """Mean and sample standard deviation over seeds."""
    lost = sum(math.isnan(value) for value in values)
    if lost:
        return f"{lost} of {len(values)} diverged"
    return shown(values, digits)


def singular_table(runs: Sequence[Mapping[Cell, Trained]]) -> None:
    """Mean singular values before training."""
    print("| activation | initial weights | at first | after pruning | after isometry |\n|---|---|---:|---:|---:|")
    for activation, initial in dict.fromkeys(key[:2] for key in runs[0]):
        cells = [cell([run[activation, initial, way].singular for run in runs], 4) for way in WAYS]
        print(f"| {activation} | {initial} | {' | '.join(cells)} |")


def error_table(errors: Sequence[Mapping[Cell, tuple[float, float]]], steps: int) -> None:
    """Test errors in %, and what isometry changes, paired by seed."""
    print(
        f"| activation | initial weights | network | step {min(EARLY, steps)} | step {steps} |\n|---|---|---|---:|---:|"
    )
    for activation, initial in dict.fromkeys(key[:2] for key in errors[0]):
        rows = {way: [one[activation, initial, way] for one in errors] for way in WAYS}
        rows["isometry - pruned"] = [
            (after[0] - before[0], after[1] - before[1])
            for before, after in zip(rows[WAYS[1]], rows[WAYS[2]], strict=True)
        ]
        for way, values in rows.items():
            cells = " | ".join(cell(column) for column in zip(*values, strict=True))
            print(f"| {activation} | {initial} | {way} | {cells} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where the data are; default: SPARSEWOOD_DATA")
    parser.add_argument("--activations", nargs="+", choices=["linear", "tanh", "relu"], default=["linear", "tanh"])
    parser.add_argument("--initial", nargs="+", choices=INITIAL, default=["orthogonal", "lecun"])
    parser.add_argument("--scores", choices=["labels", "uniform", "fashion_mnist"], default="labels",
                        help="what weights are scored by: labels, uniform labels, or images and labels of another task"
                        )  # fmt: skip
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--iterations", type=int, default=10_000, help="of isometry, at most")
    parser.add_argument("--train-size", type=int)
    parser.add_argument("--examples", type=int, default=1000, help="for singular values")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    data, split = tensors("mnist", options)
    scores = tensors("fashion_mnist", options)[0] if options.scores == "fashion_mnist" else data
    runs = []
    for seed in range(1, options.seeds + 1):
        found: dict[Cell, Trained] = {}
        for activation in options.activations:
            for initial in options.initial:
                found |= networks(activation, initial, seed, data, scores, options)
        runs.append(found)
    test = list(sw.data.Loader(split.test.open(), 1000))
    errors = [{key: (error(one.early, test), error(one.last, test)) for key, one in run.items()} for run in runs]
    print(f"`python {shlex.join(sys.argv)}`")
    print(
        f"MLP-7, width 100, MNIST with {len(data[0])} training images, {options.sparsity:.0%} of weights and biases "
        f"removed, scored by {options.scores}; seeds 1 to {options.seeds}, {time.perf_counter() - began:.0f} s; "
        f"PyTorch {torch.__version__}.\n\nMean Jacobian singular value over {options.examples} training images, before "
        "training:\n"
    )
    singular_table(runs)
    print("\nTest error in %:\n")
    error_table(errors, options.steps)


if __name__ == "__main__":
    main()
