"""What masks cost in training: the time of a masked step over that of a dense one.

ResNet-20 on random 3 x 32 x 32 images, SGD with momentum and weight decay, 90 % of all convolution weights masked at
random. The contenders take turns within each round, so that what else the machine does hits them alike.

    python benchmarks/masked_step.py --rounds 30
"""

from __future__ import annotations

import argparse
import copy
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.optim import SGD

from sparsewood.masks import enforce
from sparsewood.models.resnet_cifar import resnet20
from sparsewood.types import Masks

Step = Callable[[], None]


def random_masks(model: nn.Module, sparsity: float) -> Masks:
    """Masks that remove the same share of each convolution's weight."""
    generator = torch.Generator().manual_seed(0)
    masks = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            shape, numel = module.weight.shape, module.weight.numel()
            keep = torch.ones(numel, dtype=torch.bool)
            keep[torch.randperm(numel, generator=generator)[: round(sparsity * numel)]] = False
            masks[f"{name}.weight"] = keep.reshape(shape)
    return Masks(masks)


class MaskedForward(nn.Module):
    """The weight is multiplied by the mask whenever it is read."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = nn.Buffer(mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def sgd(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)


def dense(model: nn.Module, masks: Masks) -> SGD:  # noqa: ARG001
    return sgd(model)


def sparsewood(model: nn.Module, masks: Masks) -> SGD:
    optimizer = sgd(model)
    enforce(model, masks, optimizer)
    return optimizer


def torch_prune(model: nn.Module, masks: Masks) -> SGD:
    for name, mask in masks.items():
        prune.custom_from_mask(model.get_submodule(name.rpartition(".")[0]), "weight", mask)
    return sgd(model)


def torch_parametrize(model: nn.Module, masks: Masks) -> SGD:
    for name, mask in masks.items():
        module = model.get_submodule(name.rpartition(".")[0])
        parametrize.register_parametrization(module, "weight", MaskedForward(mask.float()))
    return sgd(model)


CONTENDERS = {
    "dense": dense,
    "sparsewood.enforce": sparsewood,
    "torch.nn.utils.prune": torch_prune,
    "parametrize: mask * weight": torch_parametrize,
}


def make_step(model: nn.Module, optimizer: SGD, images: Tensor, labels: Tensor) -> Step:
    """One training step as a function of nothing."""

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def seconds(action: Step) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def time_steps(batch: int, rounds: int, warmup: int = 3) -> dict[str, list[float]]:
    """Seconds of each contender's steps, one per round."""
    torch.manual_seed(0)
    model, images, labels = resnet20(), torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    masks = random_masks(model, 0.9)
    steps = {}
    for name, prepare in CONTENDERS.items():
        twin = copy.deepcopy(model)
        steps[name] = make_step(twin, prepare(twin, masks), images, labels)
    names, times = list(steps), {name: [] for name in steps}
    for index in range(-warmup, rounds):
        # Another one goes first each time, because what runs before leaves the caches in its state.
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            elapsed = seconds(steps[name])
            if index >= 0:
                times[name].append(elapsed)
    return times


def time_hook(repeats: int = 200) -> list[float]:
    """Seconds of the projection alone, with momentum in place."""
    torch.manual_seed(0)
    model = resnet20()
    optimizer = sgd(model)
    keeper = enforce(model, random_masks(model, 0.9), optimizer)
    make_step(model, optimizer, torch.randn(2, 3, 32, 32), torch.zeros(2, dtype=torch.long))()
    return [seconds(keeper.project) for _ in range(repeats + 10)][10:]


def print_table(times: dict[str, list[float]], batch: int) -> None:
    base = times["dense"]
    print(f"\n{f'batch {batch}':<28}{'median ms':>11}{'ratio':>8}{'minimum ms':>13}{'ratio':>8}{'paired':>9}")
    for name, measured in times.items():
        middle, least = statistics.median(measured), min(measured)
        paired = statistics.median(mine / its for mine, its in zip(measured, base, strict=True))
        print(
            f"{name:<28}{middle * 1e3:>11.2f}{middle / statistics.median(base):>8.3f}"
            f"{least * 1e3:>13.2f}{least / min(base):>8.3f}{paired:>9.3f}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="steps of each contender at the first batch size")
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 8], help="batch sizes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(
        f"ResNet-20, 90 % of convolution weights masked, SGD momentum 0.9, weight decay 1e-4; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} CPUs, {platform.machine()}, "
        f"{datetime.datetime.now(datetime.UTC).date()}"
    )
    print("ratio: to dense. paired: median of the ratios within each round.")
    for batch in options.batches:
        # Small batches take less time each and vary more: as many more rounds, up to eight times.
        rounds = options.rounds * min(8, max(1, max(options.batches) // batch))
        times = time_steps(batch, rounds)
        print_table(times, batch)
        hook, step = statistics.median(time_hook()), statistics.median(times["dense"])
        print(f"the projection alone (weights and momentum): {hook * 1e3:.3f} ms, {hook / step:.2%} of a dense step")


if __name__ == "__main__":
    main()
