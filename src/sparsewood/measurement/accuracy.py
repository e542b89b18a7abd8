"""Loss and accuracy of a classifier on a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import call, refuse_sum, to_model_device
from sparsewood.snapshot import untouched

__all__ = ["Evaluation", "evaluate", "top_k_credit"]

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Mean loss for one sample, share of samples that are right within the top k, and how many samples there were."""

    loss: float
    top: dict[int, float]
    samples: int


def evaluate(
    model: nn.Module, data: Iterable[Any], *, loss: Loss | None = None, topk: Sequence[int] = (1, 5)
) -> Evaluation:
    """Loss and top-k accuracy over `data`, batches of (inputs, targets), in eval mode and without gradients.

    `loss(outputs, targets)` returns the mean over a batch or one value for each sample; the default is cross-entropy.
    Every sample counts the same, however the data are cut into batches. (A loss that averages with weights of its
    own, such as cross-entropy with class weights, is averaged over batches by their number of samples.)

    Top-k accuracy needs class scores of shape (samples, classes, ...) and class indices of shape (samples, ...); a
    sample with several targets counts with its mean. A `k` of at least the number of classes says nothing and is left
    out; `topk=()` asks for the loss alone. Ties get the credit that they have on average over all orders of the tied
    classes (see `top_k_credit`), so that a model with constant outputs scores k / classes on every data set.

    The data may be a loader, a list or any iterable; inputs are a tensor, a tuple or a dict, and are moved to the
    model's device. Model and random state are left as they were. Raises `SparsewoodError` if there is no sample, a
    batch is not a pair, the loss is NaN (with the number of the batch, from 0), or the targets do not fit.

    >>> model = nn.Identity()
    >>> batches = [(torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]), torch.tensor([0, 1]))]
    >>> result = evaluate(model, batches, topk=(1, 2))
    >>> result.top, result.samples
    ({1: 0.5, 2: 1.0}, 2)
    """
    _check(loss, topk)
    if isinstance(data, Tensor | str | Mapping) or not isinstance(data, Iterable):
        raise SparsewoodError(
            f"data must be batches of (inputs, targets), as a loader or a list. Got {type(data).__name__}."
        )
    total, samples = 0.0, 0
    credit: dict[int, float] = {}
    with untouched(model), torch.no_grad():
        for number, batch in enumerate(data):
            inputs, targets = _pair(batch, number)
            outputs = call(model, to_model_device(inputs, model))
            outputs, targets, size = _aligned(outputs, targets, number)
            if size == 0:
                continue
            samples += size
            total += size * _mean_loss(loss or F.cross_entropy, outputs, targets, number)
            for k, share in _credits(outputs, targets, topk, number).items():
                credit[k] = credit.get(k, 0.0) + size * share
    if samples == 0:
        raise SparsewoodError(
            "evaluate got no sample: the data are empty. A generator can be read only once; pass a list or a loader."
        )
    return Evaluation(total / samples, {k: value / samples for k, value in credit.items()}, samples)


def top_k_credit(scores: Tensor, targets: Tensor, k: int) -> Tensor:
    """Probability that the target is among the k best when ties are broken at random.

    With `above` the classes that score higher than the target and `tied` those that score the same, itself included:

        credit = clip((k - above) / tied, 0, 1)

    `scores` has shape (samples, classes, ...), `targets` (samples, ...); the result is float64 shaped like `targets`.

    >>> top_k_credit(torch.tensor([[3.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]), torch.tensor([1, 3]), 2)
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    own = scores.gather(1, targets.unsqueeze(1))
    above = (scores > own).sum(1).double()
    tied = (scores == own).sum(1).double()
    return ((k - above) / tied).clamp(0.0, 1.0)


def _check(loss: Loss | None, topk: Sequence[int]) -> None:
    if any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in topk):
        raise SparsewoodError(f"The 'topk' parameter of evaluate must hold whole numbers >= 1. Got {tuple(topk)}.")
    refuse_sum(loss)


def _pair(batch: Any, number: int) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = f"{len(batch)} items" if isinstance(batch, tuple | list) else type(batch).__name__
        raise SparsewoodError(
            f"Batch {number} given to evaluate must be a pair (inputs, targets). Got {got}. "
            "Wrap the loader in a generator function that yields pairs."
        )
    inputs, targets = batch
    return inputs, targets


def _aligned(outputs: Any, targets: Any, number: int) -> tuple[Tensor, Tensor, int]:
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or targets.ndim == 0:
        raise SparsewoodError(
            f"Batch {number}: evaluate needs a model that returns one tensor, and a tensor of targets with a sample "
            f"axis. Got {type(outputs).__name__} and {type(targets).__name__}. Wrap the model to return the scores."
        )
    return outputs, targets.to(outputs.device), targets.shape[0]


def _mean_loss(loss: Loss, outputs: Tensor, targets: Tensor, number: int) -> float:
    try:
        value = float(torch.as_tensor(loss(outputs, targets)).double().mean())
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a loss is the caller's code, and may fail in any way
        raise SparsewoodError(
            f"Batch {number}: the loss failed on outputs of shape {tuple(outputs.shape)} and targets of shape "
            f"{tuple(targets.shape)} and {targets.dtype}: {type(error).__name__}: {error}. Pass the loss of this task "
            "as loss=; it is called as loss(outputs, targets) and returns a number or a tensor."
        ) from error
    if math.isnan(value):
        raise SparsewoodError(
            f"Batch {number}: the loss is NaN. Check the inputs of this batch and the model's weights for NaN."
        )
    return value


def _credits(outputs: Tensor, targets: Tensor, topk: Sequence[int], number: int) -> dict[int, float]:
    if not topk:
        return {}
    classes = outputs.shape[1] if outputs.ndim > 1 else 0
    whole = not targets.is_floating_point() and not targets.is_complex() and targets.dtype != torch.bool
    if not whole or targets.shape != outputs.shape[:1] + outputs.shape[2:]:
        raise SparsewoodError(
            f"Batch {number}: top-k accuracy needs scores (samples, classes, ...) and class indices (samples, ...). "
            f"Got {tuple(outputs.shape)} and {tuple(targets.shape)} of {targets.dtype}. "
            "Pass topk=() for the loss alone."
        )
    if int(targets.min()) < 0 or int(targets.max()) >= classes:
        raise SparsewoodError(
            f"Batch {number}: targets must lie in 0..{classes - 1} for {classes} classes. Got "
            f"{int(targets.min())}..{int(targets.max())}. Pass topk=() if some are to be ignored by the loss."
        )
    if bool(outputs.isnan().any()):
        raise SparsewoodError(f"Batch {number}: the model's scores hold NaN. Check its weights and this batch.")
    return {k: float(top_k_credit(outputs, targets.long(), k).mean()) for k in topk if k < classes}
