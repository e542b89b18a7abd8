"""Random scores: the control every other criterion must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.criteria.base import Criterion, Inputs
from sparsewood.granularity import Reduction


@dataclass(frozen=True)
class Random(Criterion):
    """score ~ U[0, 1), independent for each element (and so for each unit, whatever its size).

    Drawn from the generator given to `prune` or `score`; without one from a generator seeded with 0, so that the same
    call gives the same scores.

    Source: the control of Blalock et al. 2020, "What is the state of neural network pruning?",
    https://arxiv.org/abs/2003.03033.

    >>> Random()(Inputs("w", torch.ones(2, 3), generator=torch.Generator().manual_seed(0))).shape
    torch.Size([2, 3])
    """

    def __call__(self, inputs: Inputs) -> Tensor:
        # Drawn on the generator's device, so that the same seed gives the same masks on every device.
        generator = torch.Generator().manual_seed(0) if inputs.generator is None else inputs.generator
        scores = torch.rand(inputs.weight.shape, generator=generator, dtype=torch.float64, device=generator.device)
        return scores.to(inputs.weight.device)

    @property
    def reduction(self) -> Reduction:
        """A unit has one draw, that of its first element: sums of draws would favour large units."""
        return "first"
