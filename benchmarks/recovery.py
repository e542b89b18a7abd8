"""Units removed from a trained network: what is left of its accuracy, and what each recovery gives back.

A small residual network is trained on a part of Fashion-MNIST or CIFAR-10, then shrunk to a half and a quarter of its
multiply-adds, with and without mean replacement, least squares and new BatchNorm statistics, and fine-tuned. The
controls are the dense network, trained on as long, and units removed at random. Test images are looked at once, when
everything is trained; epochs are not chosen.

    python benchmarks/recovery.py --data-dir DIR
    python benchmarks/recovery.py --data-dir DIR --seeds 1 --epochs 2 --finetune-epochs 1
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from cells import shown
from torch import nn

import sparsewood as sw
from sparsewood.data.loader import Loader
from sparsewood.data.split import Split
from sparsewood.train.optimizers import SGD

CALIBRATION = 512


@dataclass(frozen=True)
class Way:
    """How units are removed, and what is done before fine-tuning."""

    name: str
    random: bool = False
    bias: bool = False
    least_squares: bool = False
    recalibrate: bool = False


WAYS = (
    Way("removed"),
    Way("+ bias propagation", bias=True),
    Way("+ least squares", least_squares=True),
    Way("+ both", bias=True, least_squares=True),
    Way("+ both, new statistics", bias=True, least_squares=True, recalibrate=True),
    Way("+ new statistics", recalibrate=True),
    Way("random units", random=True),
)


def shrunk(model: nn.Module, images: torch.Tensor, factor: float, way: Way, seed: int) -> nn.Module:
    """The network with 1 / factor of its multiply-adds."""
    calibration = list(images.split(128))
    result = sw.shrink(
        model, images[:2], criterion=sw.Random() if way.random else sw.Magnitude(), budget=sw.MACs(1 / factor),
        data=calibration, bias_propagation=way.bias, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    if way.least_squares:
        sw.recovery.reconstruct(result.model, model, calibration, kept=result.plan.kept)
    if way.recalibrate:
        sw.recovery.recalibrate(result.model, calibration)
    return result.model


def networks(data: Split, seed: int, options: argparse.Namespace) -> dict[tuple[str, str], tuple[nn.Module, ...]]:
    """For every way and factor the network right after removal, and fine-tuned."""
    training = sw.train.Training(options.epochs, optimizer=SGD(lr=0.1, weight_decay=5e-4, nesterov=True), select="last")
    finetuning = sw.train.Training(
        options.finetune_epochs, optimizer=SGD(lr=0.02, weight_decay=5e-4, nesterov=True), select="last"
    )
    train = Loader(data.train, 128, seed=seed, augment=sw.data.CropFlip())
    channels = 3 if options.data == "cifar10" else 1
    model = sw.models.resnet_cifar(
        options.depth, channels=channels, shortcut="B", generator=torch.Generator().manual_seed(seed)
    )
    sw.train.fit(model, train, training, seed=seed)
    images = torch.cat([x for x, _ in islice(Loader(data.train, 128), CALIBRATION // 128)])
    found: dict[tuple[str, str], tuple[nn.Module, ...]] = {
        ("dense", "1"): (model, tuned(model, train, finetuning, seed))
    }
    for factor in options.factors:
        for way in WAYS:
            small = shrunk(model, images, factor, way, seed)
            found[way.name, f"{factor:g}"] = (small, tuned(small, train, finetuning, seed))
            print(f"seed {seed}, {factor:g}x, {way.name}: trained", file=sys.stderr, flush=True)
    return found


def tuned(model: nn.Module, train: Loader, training: sw.train.Training, seed: int) -> nn.Module:
    """A copy, trained on."""
    copied = copy.deepcopy(model)
    sw.train.fit(copied, train, training, seed=seed + 1000)
    return copied


def table(found: Sequence[Mapping[tuple[str, str], tuple[float, ...]]]) -> None:
    """Accuracies in %, mean and sample standard deviation over seeds."""
    print("| MACs | way | right after | fine-tuned |")
    print("|---|---|---:|---:|")
    for way, factor in found[0]:
        cells = []
        for column in range(2):
            values = [100 * one[way, factor][column] for one in found]
            cells.append(shown(values, 1))
        print(f"| 1/{factor} | {way} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where the data are; default: SPARSEWOOD_DATA")
    parser.add_argument("--data", choices=["fashion_mnist", "cifar10"], default="fashion_mnist")
    parser.add_argument("--train-size", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--finetune-epochs", type=int, default=2)
    parser.add_argument("--factors", type=float, nargs="+", default=[2.0, 4.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = getattr(sw.data, options.data)(options.data_dir, validation=1000, train_size=options.train_size)
    began = time.perf_counter()
    runs = [networks(data, seed, options) for seed in range(1, options.seeds + 1)]
    test = list(Loader(data.test.open(), 1000))
    accuracies = [
        {key: tuple(sw.evaluate(model, test, topk=(1,)).top[1] for model in models) for key, models in run.items()}
        for run in runs
    ]
    print(
        f"ResNet-{options.depth}, {options.data} with {len(data.train)} training images, {options.epochs} epochs and "
        f"{options.finetune_epochs} of fine-tuning, {options.seeds} seeds, {time.perf_counter() - began:.0f} s; "
        f"PyTorch {torch.__version__}. Test accuracy in %:\n"
    )
    table(accuracies)


if __name__ == "__main__":
    main()
