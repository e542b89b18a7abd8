"""BatchNorm statistics, estimated anew: after pruning, what enters a layer has another mean and variance."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsewood.errors import SparsewoodError, require_model
from sparsewood.recovery.passes import call_order, model_inputs, run_up_to
from sparsewood.snapshot import untouched

__all__ = ["Recalibration", "StatisticsChange", "recalibrate"]

logger = logging.getLogger(__name__)

_CHUNK = 1 << 22
"""Entries of an activation that are held in float64 at a time."""


@dataclass(frozen=True)
class StatisticsChange:
    """How much one layer's statistics changed, over its channels.

    `mean`: the largest |new mean - old mean| / old standard deviation. `variance`: the largest factor between new and
    old variance, upwards or downwards, at least 1. Variances are those that the layer divides by, with its `eps`.
    """

    mean: float
    variance: float


@dataclass(frozen=True)
class Recalibration:
    """What changed, by layer in the order in which they run; and which BatchNorm layers were left alone, and why."""

    layers: Mapping[str, StatisticsChange]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        if not self.layers:
            return f"no BatchNorm statistics to estimate ({len(self.skipped)} layers skipped)"
        mean, variance = (
            max(self.layers, key=lambda name, of=of: getattr(self.layers[name], of)) for of in ("mean", "variance")
        )
        return (
            f"{len(self.layers)} BatchNorm layers; largest change of a mean: {self.layers[mean].mean:.3g} standard "
            f"deviations ({mean}), of a variance: factor {self.layers[variance].variance:.3g} ({variance})"
        )


def recalibrate(model: nn.Module, data: Iterable[Any]) -> Recalibration:
    """Set the running mean and variance of every BatchNorm layer to those of what enters it on `data`, in place.

        mean = 1 / n sum x,    variance = 1 / (n - 1) sum (x - mean)^2        over all n samples and positions

    Layers are treated in the order in which they run, each with the new statistics of those before it, in eval mode:
    so the result does not depend on how `data` are cut into batches, and is what eval mode needs. (A forward in train
    mode with `momentum=None` and all data in one batch finds the same for the first layer. Later ones differ by about
    1 / n, because train mode divides by the variance with 1 / n.) For L layers `data` are read L times, each time up
    to the layer in question: about L / 2 forwards over all data; a few hundred samples are enough.

    `data`: batches that can be read again and again: tensors, `(inputs, target)`, or mappings of keyword inputs.
    `num_batches_tracked` is set to the number of calls that were seen, so that with `momentum=None` training goes on
    averaging. All else of the model is left as it was: weights, modes, hooks, random state. Layers that keep no
    statistics or do not run are skipped. A layer that is called several times per forward gets those of all its calls
    together, which are made with its old statistics.

    Raises `SparsewoodError` for data that are empty or are no batches, for layers that see fewer than two values per
    channel, and for activations that are not finite; the model is then left as it was.

    >>> norm = nn.BatchNorm1d(1)
    >>> print(recalibrate(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0]])]))
    1 BatchNorm layers; largest change of a mean: 3 standard deviations (the model), of a variance: factor 4 (the model)
    >>> norm.running_mean, norm.running_var
    (tensor([3.]), tensor([4.]))
    """
    require_model(model)
    norms = {name or "the model": one for name, one in model.named_modules() if isinstance(one, _BatchNorm)}
    keeping = {name: one for name, one in norms.items() if one.running_mean is not None and one.running_var is not None}
    skipped = {name: "it keeps no statistics" for name in norms if name not in keeping}
    if not keeping:
        logger.info("%s has no BatchNorm statistics to estimate.", type(model).__name__)
        return Recalibration({}, skipped)
    with untouched(model):
        order = call_order(model, keeping, data)
    skipped |= {name: "it does not run in eval mode" for name in keeping if name not in order}
    before = {name: [tensor.clone() for tensor in keeping[name].buffers(recurse=False)] for name in order}
    try:
        changes = {name: _estimated(model, name, keeping[name], calls, data) for name, calls in order.items()}
    except BaseException:
        for name, values in before.items():
            _write(list(keeping[name].buffers(recurse=False)), values)
        raise
    return Recalibration(changes, skipped)


def _estimated(model: nn.Module, name: str, norm: _BatchNorm, calls: int, data: Iterable[Any]) -> StatisticsChange:
    """Give one layer the statistics of what enters it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    moments = _Moments(norm.num_features)
    with untouched(model):
        for inputs in model_inputs(data):
            run_up_to(model, norm, calls, inputs, lambda x, _: moments.add(x))
    mean, variance = moments.mean, moments.variance(name)
    if not torch.isfinite(mean + variance).all():
        raise SparsewoodError(f"What enters {name} is not finite on these data. Check the weights, and the data.")
    old = norm.running_var.double().cpu() + norm.eps
    shift = float(((mean - norm.running_mean.double().cpu()).abs() / old.sqrt()).max())
    factor = math.exp(float(((variance + norm.eps) / old).log().abs().max()))
    _write([norm.running_mean, norm.running_var], [mean, variance])
    if norm.num_batches_tracked is not None:
        _write([norm.num_batches_tracked], [torch.tensor(moments.calls)])
    return StatisticsChange(shift, factor)


class _Moments:
    """Count, mean and sum of squared distances from it, of values that come in parts, in float64.

    Source: Chan, Golub and LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".
    """

    def __init__(self, channels: int) -> None:
        self.count, self.calls = 0, 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Add activations [samples, channels, *positions]."""
        self.calls += 1
        rows = max(1, _CHUNK * len(x) // max(1, x.numel()))
        for part in x.detach().split(rows) if x.numel() else ():
            values = part.transpose(0, 1).flatten(1).double()
            mean = values.mean(1, keepdim=True)
            squares = (values - mean).square().sum(1).cpu()
            added, apart = values.shape[1], mean.squeeze(1).cpu() - self.mean
            total = self.count + added
            self.squares += squares + apart.square() * (self.count * added / total)
            self.mean += apart * (added / total)
            self.count = total

    def variance(self, name: str) -> Tensor:
        if self.count < 2:
            raise SparsewoodError(
                f"{name} has seen {self.count} value of each channel, and a variance needs two. Pass more data."
            )
        return self.squares / (self.count - 1)


def _write(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
