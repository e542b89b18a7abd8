"""How well criteria tell what a unit is worth: rank correlation with the loss that leaving it out costs.

A small convolutional network is trained on the digits that come with scikit-learn, or LeNet-5-Caffe on MNIST. Then each
unit is masked by itself, and the change of the loss is measured, on the training images that the criteria see and on as
many validation images, or all there are. Shown is Spearman's correlation between that and the scores, mean and sample
standard deviation over seeds: "within layers" is the mean over the layers, "all units" that of the scores as `shrink`
compares them. "Absolute" is the size of the change, up or down: what Molchanov et al. (2017) compare their scores with.
Random scores are the control. Scores that are all equal tell nothing: their correlation is 0. Criteria that do not
apply to the network are named below the table, with the reason.

    python benchmarks/unit_criteria.py
    python benchmarks/unit_criteria.py --seeds 1 --epochs 5
    python benchmarks/unit_criteria.py --network lenet5 --data-dir DIR --images 1000 --epochs 3 --lr 0.01
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
from cells import shown
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
COLUMNS = tuple(product(("training", "absolute", "validation"), ("within layers", "all units")))

Scores = Mapping[str, Tensor]
Found = dict[Any, list[float]]


def network(name: str, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    if name == "small_conv":
        return sw.models.small_conv((16, 24, 32), hidden=48, batch_norm=True, generator=generator)
    model = sw.models.lenet5_caffe(generator=generator)
    for parameter in model.parameters():
        if parameter.dim() == 4:  # convolutions take half the time so
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def trained(data: Any, seed: int, options: argparse.Namespace) -> nn.Module:
    model = network(options.network, seed)
    training = sw.train.Training(options.epochs, batch_size=64, optimizer=sw.train.SGD(options.lr), select="last")
    sw.train.fit(model, Loader(data.train, 64, seed=seed), training, seed=seed)
    return model


def error(model: nn.Module, part: Part) -> float:
    """In percent."""
    return 100 * (1 - sw.measurement.evaluate(model, Loader(part, 1000)).top[1])


def worth(model: nn.Module, structure: sw.Structure, images: Tensor, labels: Tensor) -> Scores:
    """For every unit of every group, by how much the loss grows when the unit is masked by itself."""
    found = {}
    for group in structure.prunable:
        changes = []
        with untouched(model), torch.no_grad():
            head, tail = halves(model, list(structure.to_masks({group.name: torch.ones(group.units).bool()})))
            reached = head(images)
            before = F.cross_entropy(tail(reached).double(), labels)
            for unit in range(group.units):
                saved = {name: value.clone() for name, value in model.state_dict().items()}
                sw.apply_masks(model, structure.to_masks({group.name: torch.arange(group.units) != unit}))
                changes.append(float(F.cross_entropy(tail(reached).double(), labels) - before))
                model.load_state_dict(saved)
        found[group.name] = torch.tensor(changes, dtype=torch.float64)
    return found


def halves(model: nn.Module, masked: Sequence[str]) -> tuple[nn.Module, nn.Module]:
    """What runs before the first of the masked parameters, which is the same for all units, and the rest."""
    if not isinstance(model, nn.Sequential):
        return nn.Identity(), model
    layers = [name for name, _ in model.named_children()]
    first = min(layers.index(name.split(".")[0]) for name in masked)
    return model[:first], model[first:]


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
    """The correlation of the ranks, equal numbers having the mean of theirs; 0 if one side has equal numbers only."""
    if min(len(one.unique()) for one in (first, second)) == 1:
        return 0.0
    ranks = [rankdata(one.numpy()) for one in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def some(part: Part, count: int, seed: int) -> Part:
    """At most so many, at random."""
    return part.subset(torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:count])


def run(data: Any, seed: int, options: argparse.Namespace) -> tuple[Found, dict[Any, str], float]:
    """For every criterion its correlations, in the order of `COLUMNS`; why others have none; the validation error."""
    model = trained(data, seed, options)
    seen, unseen = (some(part, options.images, seed) for part in (data.train, data.validation))
    structure = sw.trace(model, seen.batch(torch.arange(2))[0])
    training, validation = (worth(model, structure, *part.batch(torch.arange(len(part)))) for part in (seen, unseen))
    costs = [training, {name: changes.abs() for name, changes in training.items()}, validation]
    found: Found = {}
    left_out: dict[Any, str] = {}
    for criterion in CRITERIA:
        try:
            scores = scores_of(criterion, model, structure, seen, seed)
        except sw.SparsewoodError as reason:
            left_out[criterion] = str(reason)
            continue
        if scores:
            found[criterion] = [number for one in costs for number in correlations(scores, one)]
        else:
            left_out[criterion] = "The network has no weights that it scores."
        print(f"seed {seed}: {criterion}", file=sys.stderr, flush=True)
    return found, left_out, error(model, data.validation)


def table(found: Sequence[Found]) -> None:
    print("| criterion | " + " | ".join(f"{part}, {which}" for part, which in COLUMNS) + " |")
    print("|---|" + "---:|" * len(COLUMNS))
    for criterion in found[0]:
        cells = [shown([one[criterion][column] for one in found]) for column in range(len(COLUMNS))]
        print(f"| {criterion} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("small_conv", "lenet5"), default="small_conv")
    parser.add_argument("--data-dir", help="where MNIST is, for lenet5; default: SPARSEWOOD_DATA")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=0.1, help="of SGD with momentum 0.9, cosine")
    parser.add_argument("--images", type=int, default=500, help="training images that the criteria see")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = sw.data.digits() if options.network == "small_conv" else sw.data.mnist(options.data_dir)
    began = time.perf_counter()
    found, left_out, errors = zip(*(run(data, seed, options) for seed in range(1, options.seeds + 1)), strict=True)
    structure = sw.trace(network(options.network, 1), data.train.batch(torch.arange(2))[0])
    print(
        f"{options.seeds} networks of {', '.join(str(group.units) for group in structure.prunable)} units, "
        f"{options.epochs} epochs, learning rate {options.lr:g}, validation error {shown(errors)} %, {options.images} "
        f"training images, {time.perf_counter() - began:.0f} s; PyTorch {torch.__version__}.\n"
    )
    table(found)
    for criterion, reason in left_out[0].items():
        print(f"\n{criterion} is left out: {reason}")


if __name__ == "__main__":
    main()
