"""Codebooks of 8 bits: the values of shared weights, rounded to whole multiples of a step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, UnknownName, require_model
from sparsewood.quantization.sharing import Sharing

__all__ = ["round_codebooks"]

_LARGEST = 127


def round_codebooks(model: nn.Module, sharing: Sharing) -> dict[str, float]:
    """Round the values of shared weights to 8 bits, signed and symmetric, in place; the step of each weight by name.

        w <- step * round(w / step),    step = max |w| / 127, rounded up to a number whose multiples by 127 are exact

    Values that were the same stay the same, so that a weight has as many as before, or fewer; zeros stay exactly zero,
    and a value below half a step becomes 0. No value moves by more than half a step. The values are those in the model,
    trained since they were shared or not. Each weight has one step, those with a codebook for each channel, too.
    `sparsewood.pack` writes such codebooks in a byte a value.

    Raises `SparsewoodError` for values that are not finite, or as large as the dtype holds; `UnknownName` for weights
    that the model does not have.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, for symmetric weights; Han et al. 2016, "Deep
    Compression", https://arxiv.org/abs/1510.00149, for codebooks.

    >>> from sparsewood.quantization import share_weights
    >>> layer = nn.Linear(4, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.0, 0.3, 1.27, 0.3]]))
    >>> step = round_codebooks(layer, share_weights(layer, clusters=2))["weight"]
    >>> [round(float(w) / step, 6) for w in layer.weight[0].detach()]
    [0.0, 30.0, 127.0, 30.0]
    """
    require_model(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    steps: dict[str, float] = {}
    for name in sharing.weights:
        if name not in parameters:
            raise UnknownName.among(f"parameter of {type(model).__name__}", name, parameters)
        steps[name] = _step(name, parameters[name].detach())
    with torch.no_grad():
        for name, step in steps.items():
            weight = parameters[name]
            if step:
                weight.copy_((weight.double() / step).round() * step + 0.0)  # no -0.0, whose bits are not those of 0
    return steps


def _step(name: str, weight: Tensor) -> float:
    """0 for a weight of zeros."""
    most = float(weight.abs().max()) if weight.numel() else 0.0
    if not math.isfinite(most):
        raise SparsewoodError(f"round_codebooks: values of {name!r} are not finite; nothing was changed.")
    if not most:
        return 0.0
    kind = torch.finfo(weight.dtype)
    bits = round(-math.log2(kind.eps)) + 1 - _LARGEST.bit_length()  # of a step: 17 in float32
    _, exponent = math.frexp(most / _LARGEST)
    unit = max(math.ldexp(1.0, exponent - bits), kind.smallest_normal * kind.eps)  # not below the least number there is
    step = math.ceil(most / _LARGEST / unit) * unit
    if step * _LARGEST > kind.max:
        raise SparsewoodError(
            f"round_codebooks: {name!r} has values up to {most:g}, which in whole steps are beyond what {weight.dtype} "
            "holds; nothing was changed. Scale the weight down."
        )
    return step
