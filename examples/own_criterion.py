"""A criterion of your own: one frozen dataclass, checked by the same contract as the built-in ones.

python examples/own_criterion.py
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.criteria import Criterion, Inputs
from sparsewood.testing import check_criterion


@dataclass(frozen=True)
class NearTarget(Criterion):
    """score = -| |w| - target |: keeps the weights whose magnitude is closest to a target.

    Source: this example.
    """

    target: float = 0.1
    pointwise: ClassVar[bool] = True

    def __call__(self, inputs: Inputs) -> Tensor:
        return -(inputs.weight.abs() - self.target).abs()


check_criterion(NearTarget(0.05))
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
for scope in (sw.Everywhere(), sw.PerLayer(sw.ERK()), sw.PerRow()):
    masks = sw.prune(model, NearTarget(0.05), 0.9, scope=scope, protect_classifier=False)
    kept = torch.cat([p[masks[name]].abs() for name, p in model.named_parameters() if name in masks])
    print(f"{scope}: {masks}, kept magnitudes {kept.min():.3f} to {kept.max():.3f}")
