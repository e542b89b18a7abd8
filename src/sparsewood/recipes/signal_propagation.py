"""Pruning an untrained network such that signals still pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sparsewood.criteria import WeightTimesGradient
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import describe
from sparsewood.parameters import Selectors
from sparsewood.pruning import prune
from sparsewood.recovery import Isometry, enforce_isometry
from sparsewood.statistics import Loss
from sparsewood.types import AmountLike, Masks

__all__ = ["prune_with_isometry", "uniform_labels"]


def prune_with_isometry(
    model: nn.Module,
    data: Iterable[Any],
    *,
    loss: Loss = F.cross_entropy,
    sparsity: AmountLike = 0.9,
    include: Selectors | None = None,
    isometry: Isometry = Isometry(),
) -> Masks:
    """Prune an untrained network by connection sensitivity, then enforce approximate isometry on it, both in place.

        score = |w * mean_n dL_n/dw|

    over all examples of `data` (so that how they are cut into batches does not matter), with the sum taken before the
    absolute value; the best stay, exactly as many as asked for, without a floor for any layer. The labels need not be
    those of the task: with `loss=uniform_labels` none are read, and `data` of another task of the same shape will do.
    The weights that are left are then moved (see `enforce_isometry`). Train with `enforce(model, masks, optimizer)`.

    Args:
        include: what is pruned (see `prune`); by default all weights, the classifier's too. To prune biases as well,
            as the paper's code does, name all parameters: `[name for name, _ in model.named_parameters()]`. Biases that
            start at 0 have score exactly 0, so all of them go first.
        isometry: its iterations and rate.

    Raises as `prune` and `enforce_isometry`.

    Source: Lee et al. 2020, "A Signal Propagation Perspective for Pruning Neural Networks at Initialization",
    https://arxiv.org/abs/1906.06307.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    >>> masks = prune_with_isometry(model, [(torch.eye(4), torch.tensor([0, 1, 1, 0]))], sparsity=0.5)
    >>> masks.removed, bool(model[0].weight[~masks["0.weight"]].any() or model[1].weight[~masks["1.weight"]].any())
    (12, False)
    """
    sensitivity = WeightTimesGradient()
    masks = prune(
        model, sensitivity, sparsity, data=data, loss=loss, include=include, min_units=0, protect_classifier=False
    )
    enforce_isometry(model, masks, iterations=isometry.iterations, rate=isometry.rate)
    return masks


def uniform_labels(logits: Tensor, labels: object = None) -> Tensor:
    """A loss that asks for equal probabilities of all classes, so that scores need no labels.

        loss = - 1 / K sum_k log softmax(logits)_k = KL(uniform || softmax(logits)) + log K,    mean over examples

    Args:
        logits: [examples, classes, ...]; what follows the classes (positions, say) counts as examples.
        labels: not read.

    Raises `SparsewoodError` for logits without an axis of classes. Source: unsupervised pruning of Lee et al. 2020,
    https://arxiv.org/abs/1906.06307.

    >>> import torch
    >>> uniform_labels(torch.zeros(3, 4)).exp()
    tensor(4.)
    """
    del labels
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        raise SparsewoodError(f"uniform_labels needs logits [examples, classes, ...]. Got {describe((logits,))}.")
    return -F.log_softmax(logits, dim=1).mean()
