"""Mean replacement pruning: absolute against signed scores, bias propagation against plain removal.

A small convolutional network is trained on a part of Fashion-MNIST. Then each of its layers is pruned alone, by each
score, at several shares of its units, with and without bias propagation; nothing is trained afterwards. Scores and
means are of one part of the validation images, losses of another; test images are not read. Printed is the change of
the loss, as the mean over layers and shares, and its differences between ways of pruning, paired by seed, layer and
share.

    python benchmarks/mean_replacement.py --data-dir DIR
    python benchmarks/mean_replacement.py --data-dir DIR --seeds 1 --epochs 1 --shares 0.25
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Mapping

import torch
from cells import shown
from torch import nn

import sparsewood as sw
from sparsewood.data.loader import Loader
from sparsewood.data.split import Split
from sparsewood.recipes import probe_pruning
from sparsewood.recipes.measurements import SCORES
from sparsewood.train.optimizers import SGD

Key = tuple[str, bool]
Penalties = dict[Key, dict[tuple[int, str, float], float]]

WIDTHS = (16, 32, 32, 64, 64)


def trained(data: Split, seed: int, epochs: int) -> nn.Module:
    model = sw.models.small_conv(
        WIDTHS, channels=data.input_shape[0], size=data.input_shape[1], batch_norm=True,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    training = sw.train.Training(epochs, optimizer=SGD(lr=0.05, weight_decay=5e-4, nesterov=True), select="last")
    sw.train.fit(model, Loader(data.train, 128, seed=seed), training, seed=seed)
    return model.eval()


def penalties(model: nn.Module, data: Split, seed: int, shares: Iterable[float], found: Penalties) -> None:
    """Add the changes of the loss of one network."""
    subsets = data.subsets(800, 800, seed=seed)
    scored, measured = (list(Loader(part, 200)) for part in (subsets.subset_val2, subsets.subset_val))
    structure = sw.trace(model, scored[0][0][:2])
    for layer in sw.units.find_layers(structure, sw.units.find_sites(structure)):
        for share in shares:
            probe = probe_pruning(
                model, scored, share, layer, evaluate_on={"val": measured}, loss=nn.functional.cross_entropy,
                scorings=SCORES, structure=structure, generator=torch.Generator().manual_seed(seed),
            )  # fmt: skip
            for row in probe.rows:
                key = row.scoring, row.bias_propagation
                found.setdefault(key, {})[seed, layer, share] = row.penalty


def by_seed(values: Mapping[tuple[int, str, float], float]) -> list[float]:
    """The mean over layers and shares, for every seed."""
    seeds = sorted({seed for seed, _, _ in values})
    return [statistics.mean(value for key, value in values.items() if key[0] == seed) for seed in seeds]


def difference(found: Penalties, one: Key, other: Key) -> str:
    """Of pairs: the mean over seeds, and how often it is below 0."""
    pairs = {key: found[one][key] - found[other][key] for key in found[one]}
    better = sum(value < 0 for value in pairs.values())
    return f"{shown(by_seed(pairs), 3)} (lower in {better} of {len(pairs)} pairs)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where Fashion-MNIST is; default: SPARSEWOOD_DATA")
    parser.add_argument("--train-size", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.25, 0.5, 0.75])
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = sw.data.fashion_mnist(options.data_dir, validation=1600, train_size=options.train_size)
    began, found = time.perf_counter(), Penalties()
    for seed in range(1, options.seeds + 1):
        penalties(trained(data, seed, options.epochs), data, seed, options.shares, found)
        print(f"seed {seed} done after {time.perf_counter() - began:.0f} s", flush=True)
    print(
        f"\nFashion-MNIST, {len(data.train)} training images, {options.epochs} epochs, {options.seeds} seeds, shares "
        f"{options.shares}; PyTorch {torch.__version__}. Change of the loss, mean over layers and shares:\n"
    )
    print("| score | plain | bias propagation | bias propagation - plain |\n|---|---:|---:|---:|")
    for name in SCORES:
        plain, propagated = (shown(by_seed(found[name, bp]), 3) for bp in (False, True))
        print(f"| {name} | {plain} | {propagated} | {difference(found, (name, True), (name, False))} |")
    print("\n| difference | plain | bias propagation |\n|---|---:|---:|")
    for one, other in (("abs_mrs", "mrs"), ("abs_rs", "rs"), ("abs_mrs", "abs_rs"), ("abs_mrs", "rand")):
        cells = (difference(found, (one, bp), (other, bp)) for bp in (False, True))
        print(f"| {one} - {other} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
