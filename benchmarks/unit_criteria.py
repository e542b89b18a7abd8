"""How well criteria tell what a unit is worth: rank correlation with the loss that leaving it out costs.

A small convolutional network is trained on the digits that come with scikit-learn. Then each unit is masked by itself,
and the change of the loss is measured, on the training images that the criteria see and on validation images. Shown is
Spearman's correlation between that and the scores, mean and sample standard deviation over seeds: "within layers" is
the mean over the layers, "all units" that of the scores as `shrink` compares them. Random scores are the control.

    python benchmarks/unit_criteria.py
    python benchmarks/unit_criteria.py --seeds 1 --epochs 5
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood import unit_criteria as units
from sparsewood.data.augment import CropFlip
from sparsewood.data.loader import Loader
from sparsewood.data.part import Part
from sparsewood.shrinking.choice import Chooser
from sparsewood.snapshot import untouched

CRITERIA: tuple[Any, ...] = (
    sw.Random(),
    sw.Magnitude(),
    sw.BatchNormScale(),
    sw.WeightTimesGradient(),
    units.FilterNorm(),
    units.FilterNorm(2),
    units.GeometricMedian(),
    units.MeanActivation(),
    units.MeanEnergy(),
    units.NonZeroFraction(),
    units.FeatureRank(),
    units.ChannelIndependence(),
    units.ClassSelective(10),
    units.UnitMem(CropFlip(1), 2),
    units.OutlierSelectivity(CropFlip(1), 2),
    units.FilterGradient(),
    units.TaylorRemoval("signed"),
    units.TaylorRemoval(),
    units.MeanReplacement("signed"),
    units.MeanReplacement(),
    units.GateTaylor(),
    units.Fisher(),
    units.HessianTrace(),
    units.PerLayerNormalized(units.TaylorRemoval()),
)
COLUMNS = tuple(product(("training", "validation"), ("within layers", "all units")))

Scores = Mapping[str, Tensor]


def trained(data: Any, seed: int, epochs: int) -> nn.Module:
    model = sw.models.small_conv(
        (16, 24, 32), hidden=48, batch_norm=True, generator=torch.Generator().manual_seed(seed)
    )
    training = sw.train.Training(epochs, batch_size=64, select="last")
    sw.train.fit(model, Loader(data.train, 64, seed=seed), training, seed=seed)
    return model


def worth(model: nn.Module, structure: sw.Structure, images: Tensor, labels: Tensor) -> Scores:
    """For every unit of every group, by how much the loss grows when the unit is masked by itself."""

    def loss() -> float:
        with untouched(model), torch.no_grad():
            return float(F.cross_entropy(model(images).double(), labels))

    before, found = loss(), {}
    for group in structure.prunable:
        changes = []
        for unit in range(group.units):
            keep = torch.arange(group.units) != unit
            saved = {name: value.clone() for name, value in model.state_dict().items()}
            sw.apply_masks(model, structure.to_masks({group.name: keep}))
            changes.append(loss() - before)
            model.load_state_dict(saved)
        found[group.name] = torch.tensor(changes, dtype=torch.float64)
    return found


def scores_of(criterion: Any, model: nn.Module, structure: sw.Structure, part: Part, seed: int) -> Scores:
    """The scores as they compete."""
    given: Any = part if units.reads_images(criterion) else list(Loader(part, 100))
    generator = torch.Generator().manual_seed(seed)
    return Chooser(
        model, structure, criterion=criterion, amount=1, data=given, loss=F.cross_entropy, generator=generator
    ).scores


def correlations(scores: Scores, costs: Scores) -> tuple[float, float]:
    """Spearman's correlation within layers, the mean over them, and over all units; of those that have scores."""
    within = [spearman(scores[name], costs[name]) for name in scores]
    every = spearman(*(torch.cat([one[name] for name in scores]) for one in (scores, costs)))
    return statistics.mean(within), every


def spearman(first: Tensor, second: Tensor) -> float:
    """The correlation of the ranks, equal numbers having the mean of theirs."""
    ranks = [rankdata(one.numpy()) for one in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def run(data: Any, seed: int, options: argparse.Namespace) -> dict[Any, list[float]]:
    """For every criterion its correlations, in the order of `COLUMNS`."""
    model = trained(data, seed, options.epochs)
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[: options.images]
    seen = data.train.subset(chosen)
    structure = sw.trace(model, seen.batch(torch.arange(2))[0])
    costs = [worth(model, structure, *part.batch(torch.arange(len(part)))) for part in (seen, data.validation)]
    found: dict[Any, list[float]] = {}
    for criterion in CRITERIA:
        scores = scores_of(criterion, model, structure, seen, seed)
        found[criterion] = [number for one in costs for number in correlations(scores, one)]
        print(f"seed {seed}: {criterion}", file=sys.stderr, flush=True)
    return found


def table(found: Sequence[Mapping[Any, Sequence[float]]]) -> None:
    print("| criterion | " + " | ".join(f"{part}, {which}" for part, which in COLUMNS) + " |")
    print("|---|" + "---:|" * len(COLUMNS))
    for criterion in CRITERIA:
        cells = []
        for column in range(len(COLUMNS)):
            values = [one[criterion][column] for one in found]
            spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        print(f"| {criterion} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--images", type=int, default=500, help="training images that the criteria see")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = sw.data.digits()
    began = time.perf_counter()
    found = [run(data, seed, options) for seed in range(1, options.seeds + 1)]
    print(
        f"{options.seeds} networks of 16, 24, 32 and 48 units, digits, {options.epochs} epochs, {options.images} "
        f"training images, {time.perf_counter() - began:.0f} s; PyTorch {torch.__version__}.\n"
    )
    table(found)


if __name__ == "__main__":
    main()
