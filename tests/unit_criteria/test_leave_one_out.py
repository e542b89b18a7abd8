"""How well scores tell what a unit is worth: rank correlation with the loss that leaving it out costs.

The least correlations are those measured (beside them), less a margin; `benchmarks/unit_criteria.py` shows them for
larger networks and several seeds.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood import unit_criteria as units
from sparsewood.data.augment import CropFlip
from sparsewood.data.part import Part
from sparsewood.shrinking.choice import Chooser


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, the images that criteria see, and by how much the loss grows without each unit."""

    model: nn.Module
    structure: sw.Structure
    part: Part
    costs: dict[str, Tensor]


@pytest.fixture(scope="module")
def trained() -> Trained:
    part = sw.data.digits().train.subset(torch.arange(400))
    x, y = part.batch(torch.arange(400))
    model = sw.models.small_conv((12, 16), hidden=32, batch_norm=True, generator=torch.Generator().manual_seed(0))
    optimizer, order = torch.optim.Adam(model.parameters(), lr=5e-3), torch.Generator().manual_seed(0)
    for _ in range(15):
        for some in torch.randperm(400, generator=order).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[some]), y[some]).backward()
            optimizer.step()
    model.eval()
    structure = sw.trace(model, x[:2])
    return Trained(model, structure, part, left_out(model, structure, x, y))


def left_out(model: nn.Module, structure: sw.Structure, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    def loss() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model(x).double(), y))

    before, costs = loss(), {}
    for group in structure.prunable:
        changes = []
        for unit in range(group.units):
            saved = {name: value.clone() for name, value in model.state_dict().items()}
            sw.apply_masks(model, structure.to_masks({group.name: torch.arange(group.units) != unit}))
            changes.append(loss() - before)
            model.load_state_dict(saved)
        costs[group.name] = torch.tensor(changes, dtype=torch.float64)
    return costs


def correlation(criterion: Any, trained: Trained, seed: int = 0) -> float:
    """Spearman's correlation within layers, the mean over the layers that have scores."""
    data = trained.part if units.reads_images(criterion) else list(sw.data.Loader(trained.part, 100))
    scores = Chooser(
        trained.model, trained.structure, criterion=criterion, amount=1, data=data, loss=F.cross_entropy,
        generator=torch.Generator().manual_seed(seed),
    ).scores  # fmt: skip
    return statistics.mean(float(spearmanr(scores[name], trained.costs[name]).statistic) for name in scores)


def test_random_scores_tell_nothing(trained: Trained) -> None:
    assert abs(statistics.mean(correlation(sw.Random(), trained, seed) for seed in range(40))) < 0.1


MEASURED = {
    sw.Magnitude(): 0.49,
    sw.BatchNormScale(): 0.20,
    sw.WeightTimesGradient(): 0.64,
    units.FilterNorm(): 0.45,
    units.FilterNorm(2): 0.48,
    units.GeometricMedian(): 0.59,
    units.MeanActivation(): 0.37,
    units.MeanEnergy(): 0.38,
    units.NonZeroFraction(): 0.34,
    units.FeatureRank(): 0.36,
    units.ChannelIndependence(): 0.48,
    units.ClassSelective(10): 0.37,
    units.UnitMem(CropFlip(1), 2): 0.39,
    units.OutlierSelectivity(CropFlip(1), 2): 0.25,
    units.HessianTrace(): 0.40,
    units.FilterGradient(): 0.70,
    units.TaylorRemoval("signed"): 0.75,
    units.TaylorRemoval(): 0.93,
    units.TaylorRemoval(space="mean"): 0.93,
    units.MeanReplacement("signed"): 0.75,
    units.MeanReplacement(): 0.82,
    units.GateTaylor(): 0.85,
    units.Fisher(): 0.89,
    units.PerLayerNormalized(units.TaylorRemoval()): 0.93,
    units.MinusMACs(units.PerLayerNormalized(units.TaylorRemoval()), 0.1): 0.93,
}
MARGIN = 0.2


def test_every_criterion_is_measured() -> None:
    assert {type(one).__name__ for one in MEASURED} >= set(units.__all__)


@pytest.mark.parametrize("criterion", MEASURED, ids=lambda one: type(one).__name__)
def test_scores_tell_what_a_unit_is_worth(criterion: Any, trained: Trained) -> None:
    assert correlation(criterion, trained) > max(MEASURED[criterion] - MARGIN, 0)


def test_004_38_the_sign_of_gradient_ranked_filters_is_mended(trained: Trained) -> None:
    """Removing the lowest signed sum of w g would remove first what the loss needs most."""

    @dataclass(frozen=True)
    class Wrong(units.UnitCriterion):
        """The signed sum of a g: minus the first-order change of the loss."""

        def __call__(self, *given: Any, **named: Any) -> dict[str, Tensor]:
            return {name: -one for name, one in units.TaylorRemoval("signed")(*given, **named).items()}

    assert correlation(Wrong(), trained) < -0.5
    assert correlation(units.FilterGradient(), trained) > 0.5


@pytest.mark.parametrize("kind", [units.TaylorRemoval, units.MeanReplacement])
def test_absolute_terms_tell_more_than_signed_ones(kind: Any, trained: Trained) -> None:
    assert correlation(kind(), trained) > correlation(kind("signed"), trained)
