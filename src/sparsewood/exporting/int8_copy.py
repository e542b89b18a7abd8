"""A copy of a network that may be changed and exported: on the CPU, in eval mode, with plain float32 weights."""

from __future__ import annotations

import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.exporting.plain import plain_copy
from sparsewood.quantization.rounded_layers import BeforeForward

__all__ = ["float_copy"]


def float_copy(model: nn.Module) -> nn.Module:
    """The copy; raises `SparsewoodError` for layers that are rounded, and what is not float32 or not finite.

    Weights that are computed from others, by masks or a parametrisation, become parameters of their own.

    >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    >>> [name for name, _ in float_copy(layer).named_parameters()]
    ['bias', 'weight']
    """
    if any(isinstance(hook, BeforeForward) for m in model.modules() for hook in m._forward_pre_hooks.values()):
        raise SparsewoodError(
            "quantize_int8: the layers of this network compute with rounded numbers (QuantizationAware), which would "
            "be exported instead of its weights. Leave its with block first, or call remove(); of a copy that was "
            "made inside load the state dict into a network that is not rounded."
        )
    copied = plain_copy(model).cpu()
    buffers = {name for name, _ in copied.named_buffers()}
    for name, tensor in [*copied.named_parameters(), *copied.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        if tensor.dtype is not torch.float32:
            raise SparsewoodError(
                f"quantize_int8: {name!r} is {tensor.dtype}; expected float32. Pass copy.deepcopy(model).float()."
            )
        # Masks of attention are buffers of 0 and -inf.
        bad = ~(tensor.isfinite() | tensor.isneginf()) if name in buffers else ~tensor.isfinite()
        if bool(bad.any()):
            count = int(bad.sum())
            raise SparsewoodError(
                f"quantize_int8: {count} of {tensor.numel():,} values of {name!r} are not finite. Check where they "
                "come from."
            )
    return copied
