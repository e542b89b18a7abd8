"""Which units to prune: accuracy against sparsity for low, random and high UnitMem, L1, Taylor and magnitude.

A small network, with shortcuts (resnet) or without (conv), is trained on a part of Fashion-MNIST or CIFAR-10. Then a
share of its units is masked, all that belongs to a unit at once, by each way of choosing; its accuracy is measured
right after, and after some more training with the masks held. "magnitude" masks single weights instead, as many as low
UnitMem does. UnitMem is measured on training images that are augmented anew each time. Nothing is chosen on the test
images, which are read at the end.

    python benchmarks/unit_order.py --data-dir DIR
    python benchmarks/unit_order.py --data-dir DIR --network conv --scope layer
    python benchmarks/unit_order.py --data-dir DIR --seeds 1 --epochs 2 --amounts 0.1
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Mapping, Sequence

import torch
from cells import shown
from torch import nn

import sparsewood as sw
from recovery import tuned
from sparsewood.allocation import Scope
from sparsewood.data.loader import Loader
from sparsewood.data.split import Split
from sparsewood.train.optimizers import SGD
from sparsewood.unit_criteria import TaylorRemoval, UnitMem

IMAGES = 1000
WAYS = ("low UnitMem", "random", "high UnitMem", "L1", "Taylor", "magnitude")

NETWORKS = {"resnet": "ResNet-8", "conv": "five convolutions and a hidden layer"}

Found = dict[tuple[float, str], tuple[nn.Module, nn.Module]]


def trained(data: Split, seed: int, options: argparse.Namespace) -> nn.Module:
    training = sw.train.Training(options.epochs, optimizer=SGD(lr=0.1, weight_decay=5e-4, nesterov=True), select="last")
    channels, generator = data.input_shape[0], torch.Generator().manual_seed(seed)
    if options.network == "resnet":
        model: nn.Module = sw.models.resnet_cifar(8, channels=channels, shortcut="B", generator=generator)
    else:
        size, widths = data.input_shape[1], (16, 32, 32, 64, 64)
        model = sw.models.small_conv(widths, channels=channels, size=size, batch_norm=True, generator=generator)
    sw.train.fit(model, Loader(data.train, 128, seed=seed, augment=sw.data.CropFlip()), training, seed=seed)
    return model


def masks_by(way: str, model: nn.Module, data: Split, amount: float, seed: int, scope: Scope) -> sw.Masks:
    """Which units stay."""
    part = data.train.subset(torch.arange(IMAGES))
    inputs, generator = part.batch(torch.arange(2))[0], torch.Generator().manual_seed(seed)
    if way == "magnitude":
        units = masks_by("low UnitMem", model, data, amount, seed, scope)
        gone = sum(int((~mask).sum()) for mask in units.values() if mask.dim() > 1)
        return sw.prune(model, sw.Magnitude(), gone)
    memorization = {"criterion": UnitMem(sw.data.CropFlip(), images=IMAGES), "data": part}
    batches = [part.batch(indices) for indices in torch.arange(IMAGES).split(200)]
    options = {
        "low UnitMem": memorization,
        "high UnitMem": memorization | {"select": "highest"},
        "random": {"criterion": sw.Random()},
        "L1": {"criterion": sw.LpNorm(1)},
        "Taylor": {"criterion": TaylorRemoval(), "data": batches, "loss": nn.functional.cross_entropy},
    }
    return sw.prune_units(model, inputs, sparsity=amount, scope=scope, generator=generator, **options[way])


def networks(data: Split, seed: int, options: argparse.Namespace) -> Found:
    """For every amount and way the network right after, and trained on."""
    finetuning = sw.train.Training(
        options.finetune_epochs, optimizer=SGD(lr=0.02, weight_decay=5e-4, nesterov=True), select="last"
    )
    train = Loader(data.train, 128, seed=seed, augment=sw.data.CropFlip())
    model = trained(data, seed, options)
    found: Found = {(0.0, "dense"): (model, tuned(model, train, finetuning, seed))}
    for amount in options.amounts:
        for way in WAYS:
            scope = sw.PerLayer() if options.scope == "layer" else sw.Everywhere()
            masks = masks_by(way, model, data, amount, seed, scope)
            pruned = copy.deepcopy(model)
            sw.apply_masks(pruned, masks)
            after = copy.deepcopy(pruned)
            sw.train.fit(after, train, finetuning, seed=seed + 1000, masks=masks)
            found[amount, way] = (pruned, after)
        print(f"seed {seed}, {amount:.0%}: trained", file=sys.stderr, flush=True)
    return found


def table(runs: Sequence[Mapping[tuple[float, str], tuple[float, ...]]]) -> None:
    """Accuracies in %, mean and sample standard deviation over seeds."""
    print("| units gone | way | right after | trained on |\n|---:|---|---:|---:|")
    for amount, way in runs[0]:
        cells = []
        for column in range(2):
            values = [100 * run[amount, way][column] for run in runs]
            cells.append(shown(values, 1))
        print(f"| {amount:.0%} | {way} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where the data are; default: SPARSEWOOD_DATA")
    parser.add_argument("--data", choices=["fashion_mnist", "cifar10"], default="fashion_mnist")
    parser.add_argument("--train-size", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--network", choices=["resnet", "conv"], default="resnet")
    parser.add_argument("--scope", choices=["global", "layer"], default="global")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--finetune-epochs", type=int, default=1)
    parser.add_argument("--amounts", type=float, nargs="+", default=[0.1, 0.3])
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
        f"{NETWORKS[options.network]}, scope {options.scope}, {options.data} with {len(data.train)} training images, "
        f"{options.epochs} epochs and "
        f"{options.finetune_epochs} after pruning, {options.seeds} seeds, {time.perf_counter() - began:.0f} s; "
        f"PyTorch {torch.__version__}. Test accuracy in %:\n"
    )
    table(accuracies)


if __name__ == "__main__":
    main()
