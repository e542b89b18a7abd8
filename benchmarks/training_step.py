"""What the training loop costs: the time of one of its epochs over that of a bare PyTorch loop on the same batches.

An MLP 784-300-100-10 on random images, batch 128, Adam: a step of about two milliseconds, so that overhead shows. The
contenders take turns within each round, so that what else the machine does hits them alike.

    python benchmarks/training_step.py --rounds 20
"""

from __future__ import annotations

import argparse
import copy
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsewood.criteria import Magnitude
from sparsewood.models import lenet_300_100
from sparsewood.pruning import prune
from sparsewood.train import Adam, Constant, Training, fit, make_fabric

Batch = tuple[Tensor, Tensor]
STEPS = 200
TRAINING = Training(epochs=1, batch_size=128, optimizer=Adam(lr=1e-3), rate=Constant())
MASKS = prune(lenet_300_100(generator=torch.Generator().manual_seed(0)), Magnitude(), 0.9)


def bare(model: nn.Module, batches: list[Batch]) -> None:
    """What anybody would write."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()


def measured(model: nn.Module, batches: list[Batch]) -> None:
    """The same with loss and accuracy of the epoch, which the loop reports, too."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    total, correct = 0.0, 0
    for images, labels in batches:
        optimizer.zero_grad()
        logits = model(images)
        loss = cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
        correct += int((logits.argmax(1) == labels).sum())


def with_fabric(model: nn.Module, batches: list[Batch]) -> None:
    """`bare` on Lightning Fabric."""
    fabric = make_fabric("cpu")
    module, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=1e-3))
    module.train()
    for images, labels in batches:
        optimizer.zero_grad()
        fabric.backward(cross_entropy(module(images), labels))
        optimizer.step()


def ours(model: nn.Module, batches: list[Batch]) -> None:
    fit(model, batches, TRAINING)


def ours_masked(model: nn.Module, batches: list[Batch]) -> None:
    fit(model, batches, TRAINING, masks=MASKS)


CONTENDERS: dict[str, Callable[[nn.Module, list[Batch]], None]] = {
    "bare PyTorch": bare,
    "bare, with loss and accuracy": measured,
    "bare on Fabric": with_fabric,
    "sparsewood.train.fit": ours,
    "sparsewood.train.fit, 90 % masked": ours_masked,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.rand(128, 1, 28, 28, generator=generator), torch.randint(10, (128,), generator=generator))
        for _ in range(STEPS)
    ]
    model = lenet_300_100(generator=generator)
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(options.rounds + 1):
        for name, train in CONTENDERS.items():
            fresh = copy.deepcopy(model)
            began = time.perf_counter()
            train(fresh, batches)
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - began) / STEPS * 1e3)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, torch {torch.__version__}, ", end=""
    )
    print(f"{datetime.datetime.now(datetime.UTC).date()}, {options.rounds} rounds of {STEPS} steps")
    base = times["bare PyTorch"]
    print(f"{'':36}{'median ms':>10}{'ratio':>8}{'minimum ms':>12}{'ratio':>8}")
    for name, found in times.items():
        median, least = statistics.median(found), min(found)
        print(f"{name:36}{median:10.3f}{median / statistics.median(base):8.3f}{least:12.3f}{least / min(base):8.3f}")


if __name__ == "__main__":
    main()
