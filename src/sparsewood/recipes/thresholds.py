"""The sensitivity pruner: every layer by a threshold of its own, measured once on the dense network."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.parameters import Selectors, choose
from sparsewood.types import Threshold

__all__ = ["sensitivity_thresholds"]

Of = Literal["signed", "absolute"]


def sensitivity_thresholds(
    model: nn.Module, s: float, *, of: Of = "signed", include: Selectors | None = None, exclude: Selectors | None = None
) -> dict[str, Threshold]:
    """Thresholds lambda_l = s * std(w_l) of all weights that are pruned by default, by name: a scope for `prune`.

    Measured now, on dense weights, they are numbers that stay as they are however often layers are pruned by them;
    measured anew on pruned weights they would fall. `of="absolute"` takes std(|w_l|), which another definition of the
    method uses: for Gaussian weights 0.603 as large. Of those, s * std(w) removes the share erf(s / sqrt(2)).

    Raises `SparsewoodError` for an s below 0.

    Source: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks",
    https://arxiv.org/abs/1506.02626.

    >>> import torch
    >>> from sparsewood import Magnitude, prune
    >>> layer = nn.Linear(4, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[-3.0, -1.0, 1.0, 3.0]]))
    >>> thresholds = sensitivity_thresholds(layer, 0.5)
    >>> round(thresholds["weight"].value, 3)
    1.118
    >>> prune(layer, Magnitude(), scope=thresholds)["weight"].tolist()
    [[True, False, False, True]]
    """
    if isinstance(s, bool) or not isinstance(s, int | float) or not 0 <= s < math.inf:
        raise SparsewoodError(f"sensitivity_thresholds: s must be a number >= 0. Got {s!r}.")
    if of not in get_args(Of):
        raise SparsewoodError(f"sensitivity_thresholds: of must be one of {', '.join(get_args(Of))}. Got {of!r}.")
    chosen = choose(model, include=include, exclude=exclude)
    return {entry.name: Threshold(s * _deviation(entry.parameter.detach(), of)) for entry in chosen}


def _deviation(weight: Tensor, of: Of) -> float:
    values = weight.double().abs() if of == "absolute" else weight.double()
    return float(values.std(correction=0))
