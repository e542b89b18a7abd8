"""Scores of another criterion, made comparable between layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.structure import Structure
from sparsewood.unit_criteria.base import UnitCriterion, Wrapper, require_criterion

__all__ = ["PerLayerNormalized"]


@dataclass(frozen=True)
class PerLayerNormalized(Wrapper):
    """score_j = s_j / sqrt(sum over the units k of its group of s_k^2), s the scores of `criterion`.

    A group is the units that one layer makes, or several coupled ones. Where all its scores are 0 they stay so.

    Source: Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    section 2.2, https://arxiv.org/abs/1611.06440.

    >>> from torch import nn
    >>> from sparsewood import trace
    >>> from sparsewood.unit_criteria import FilterNorm
    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0], [-4.0]]))
    >>> criterion, structure = PerLayerNormalized(FilterNorm()), trace(net, torch.ones(1, 1))
    >>> criterion(net, structure, data=None, loss=None, generator=torch.Generator())
    {'0': tensor([0.6000, 0.8000], dtype=torch.float64)}
    """

    criterion: UnitCriterion

    def __post_init__(self) -> None:
        require_criterion(self)

    def changed(self, structure: Structure, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        norms = {name: torch.linalg.vector_norm(one) for name, one in scores.items()}
        return {name: one / norms[name] if norms[name] > 0 else one for name, one in scores.items()}
