"""Class selectivity as a criterion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.statistics import Loss
from sparsewood.structure import Structure
from sparsewood.unit_criteria.base import UnitCriterion
from sparsewood.units.selectivity import class_selectivity

__all__ = ["ClassSelective"]


@dataclass(frozen=True)
class ClassSelective(UnitCriterion):
    """score_j = (mu_j(k) - m_j) / (mu_j(k) + m_j), k the class that excites unit j most.

    m_j is the mean of the other classes' mean activations mu_j(c).
    See `units.class_selectivity`; on training data this is ClassMem. `data` are batches (inputs, classes).

    Source: Morcos et al. 2018, "On the importance of single directions for generalization",
    https://arxiv.org/abs/1803.06959.

    >>> ClassSelective(classes=10).classes
    10
    """

    classes: int
    negative: str = "error"

    def __post_init__(self) -> None:
        if isinstance(self.classes, bool) or not isinstance(self.classes, int) or self.classes < 2:
            raise SparsewoodError(f"ClassSelective needs the number of classes, at least 2. Got {self.classes!r}.")

    def __call__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        data: Iterable[Any] | None,
        loss: Loss | None,
        generator: torch.Generator,  # noqa: ARG002 - nothing is drawn
    ) -> dict[str, Tensor]:
        self.require(data, loss)
        assert data is not None
        return class_selectivity(model, data, self.classes, negative=self.negative, structure=structure).of_groups()
