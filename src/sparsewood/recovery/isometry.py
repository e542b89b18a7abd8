"""Approximate dynamical isometry: weights that are left are set so that a sparse network passes signals on again."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.masks import apply_masks, by_first_name
from sparsewood.matrices import as_matrices, as_weight, matrix_layers
from sparsewood.parameters import Entry
from sparsewood.recovery.base import Follow, Recovery, Snapshot

__all__ = ["Isometry", "IsometryReport", "LayerIsometry", "enforce_isometry"]

logger = logging.getLogger(__name__)

_WINDOW = 50
"""Iterations after which it is looked whether the objective still falls."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class LayerIsometry:
    """What was reached in one layer: its objective before and after, and in how many iterations.

    `settled`: the objective no longer fell, rather than that the iterations were used up.
    """

    before: float
    after: float
    iterations: int
    settled: bool


@dataclass(frozen=True)
class IsometryReport:
    """What was reached, by parameter name."""

    layers: Mapping[str, LayerIsometry]

    @property
    def before(self) -> float:
        """The objective, over all layers, before."""
        return math.fsum(layer.before for layer in self.layers.values())

    @property
    def after(self) -> float:
        """The objective, over all layers, after."""
        return math.fsum(layer.after for layer in self.layers.values())

    def __str__(self) -> str:
        settled = sum(layer.settled for layer in self.layers.values())
        longest = max(layer.iterations for layer in self.layers.values())
        return (
            f"{len(self.layers)} layers: {self.before:.4g} -> {self.after:.4g} in at most {longest:,} iterations; "
            f"{settled} of them settled"
        )


def enforce_isometry(
    model: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    *,
    iterations: int = 10_000,
    rate: float = 0.1,
    tolerance: float = 1e-4,
    progress: Progress | None = None,
) -> IsometryReport:
    """Bring the singular values of every sparse layer as near to 1 as its zeros allow, in place and without data.

        minimise sum_l ||G_l - I||_F,    G_l = W_l W_l' or W_l' W_l, whichever is smaller

    by gradient descent on the weights that are kept; W_l is the masked weight of a linear layer or convolution as a
    matrix [outputs, inputs * kernel], each group of a convolution by itself. (With the larger one, as in the paper's
    code, sqrt(outputs - inputs) is the least that can be reached where there are fewer inputs.) The norm is not
    squared, so that steps stay about as long as the rate, and at a fixed one weights end up going to and fro: it is
    halved whenever 50 iterations have brought nothing, and the best weights stay. Layers do not depend on one another;
    one is done when its objective is at most `tolerance`, or has changed by no more than this share in 50 iterations.
    Empty rows and columns stay empty, so an objective need not come near 0.

    Args:
        masks: entries that are, and stay, exactly 0; those of a layer without a mask are all free. Without `masks`
            the entries that are exactly 0 stay 0.
        iterations: at most so many, for each layer.
        rate: of the gradient descent.
        progress: is called with a line of text for every layer that is done.

    Biases and other layers are left alone; layers whose weights need no gradient are treated as well. Computed in
    float32, or float64 where weights are. Raises `SparsewoodError` for weights that are not finite and settings that
    mean nothing, and as `apply_masks`.

    Source: Lee et al. 2020, "A Signal Propagation Perspective for Pruning Neural Networks at Initialization",
    https://arxiv.org/abs/1906.06307, equation 10.

    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.3, 0.0], [-0.4, 1.9]]))
    >>> report = enforce_isometry(layer, {"weight": torch.tensor([[True, False], [False, True]])})
    >>> layer.weight.detach().round(decimals=3) + 0.0
    tensor([[1., 0.],
            [0., 1.]])
    """
    _require(iterations, rate, tolerance)
    layers = matrix_layers(model)
    if masks is not None:
        apply_masks(model, masks)
    given = None if masks is None else by_first_name(model, masks)
    found = {}
    for entry in layers:
        found[entry.name] = _enforce(entry, given, _Settings(iterations, rate, tolerance))
        if progress is not None:
            progress(f"{entry.name}: {found[entry.name]}")
    report = IsometryReport(found)
    logger.info("Isometry: %s", report)
    return report


@dataclass(frozen=True)
class Isometry(Recovery):
    """Keep the pruned weights at 0, enforce approximate isometry on the others, and train from the start.

    Meant for networks that were pruned before their training: the training that follows is the dense network's, from
    its first step. Entries that are exactly 0 when it is called stay 0. See `enforce_isometry`.

    Source: Lee et al. 2020, https://arxiv.org/abs/1906.06307.

    >>> Isometry().follow.settings, Isometry().snapshots
    ('training', ())
    """

    iterations: int = 10_000
    rate: float = 0.1

    def __post_init__(self) -> None:
        _require(self.iterations, self.rate, 1.0)

    @property
    def follow(self) -> Follow:
        return Follow("training")

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        del start, generator
        enforce_isometry(model, iterations=self.iterations, rate=self.rate)


@dataclass(frozen=True)
class _Settings:
    iterations: int
    rate: float
    tolerance: float


@torch.no_grad()
def _enforce(entry: Entry, masks: Mapping[str, Tensor] | None, settings: _Settings) -> LayerIsometry:
    """Treat one layer, in place."""
    parameter = entry.parameter
    weight = parameter.detach()
    if not bool(torch.isfinite(weight).all()):
        raise SparsewoodError(f"The weights of {entry.name!r} are not finite. Check where they come from.")
    if masks is None:
        kept = weight != 0
    else:
        kept = masks.get(entry.name, torch.ones((), dtype=torch.bool)).to(weight.device).expand_as(weight)
    wide = torch.promote_types(weight.dtype, torch.float32)
    matrices, free = as_matrices(entry, weight).to(wide), as_matrices(entry, kept).to(wide)
    tall = matrices.shape[1] > matrices.shape[2]
    if tall:
        matrices, free = matrices.mT, free.mT
    best, result = descend(matrices, free, settings.iterations, settings.rate, settings.tolerance)
    parameter.copy_(as_weight(entry, best.mT if tall else best))
    return result


def descend(
    matrices: Tensor, free: Tensor, iterations: int, rate: float, tolerance: float
) -> tuple[Tensor, LayerIsometry]:
    """The best of what gradient descent finds for matrices [groups, m, n], m <= n; only where `free` is 1 they move."""
    before, gradient = objective(matrices)
    best, least, reached, window = matrices, before, before, [before]
    done, settled = 0, before <= tolerance
    while done < iterations and not settled:
        matrices = matrices - rate * gradient * free
        now, gradient = objective(matrices)
        done += 1
        window.append(now)
        if now < least:
            best, least = matrices, now
        settled = least <= tolerance
        if done % _WINDOW == 0:
            settled = settled or max(window) - min(window) <= tolerance * least
            if least > reached * (1 - tolerance):
                rate, matrices = rate / 2, best
                _, gradient = objective(matrices)
            reached, window = least, []
    return best, LayerIsometry(before, least, done, settled)


def objective(matrices: Tensor) -> tuple[float, Tensor]:
    """sum ||W W' - I||_F over matrices W [groups, m, n], and its gradient 2 (W W' - I) W / ||W W' - I||_F (or 0).

    >>> value, gradient = objective(torch.tensor([[[2.0]]]))
    >>> value, gradient.item()
    (3.0, 4.0)
    """
    apart = matrices @ matrices.mT
    apart.diagonal(dim1=1, dim2=2).sub_(1)
    norms = torch.linalg.matrix_norm(apart, keepdim=True)
    smallest = torch.finfo(norms.dtype).tiny
    return float(norms.sum()), (apart * (2 / norms.clamp(min=smallest))) @ matrices


def _require(iterations: int, rate: float, tolerance: float) -> None:
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise SparsewoodError(f"Isometry: iterations must be a whole number >= 0. Got {iterations!r}.")
    for name, value in (("rate", rate), ("tolerance", tolerance)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise SparsewoodError(f"Isometry: {name} must be a number above 0. Got {value!r}.")
