"""The structure of a model that was not given one."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

from torch import nn

from sparsewood.inputs import to_model_device
from sparsewood.structure import Structure, trace

__all__ = ["structure_of"]


def structure_of(model: nn.Module, inputs: Any) -> Structure:
    """What `trace` finds, without a call of the model's own forward, which somebody may count or watch.

    The modules are copied, their parameters and buffers shared; a model that cannot be copied is traced itself.
    """
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    try:
        stand_in = copy.deepcopy(model, shared)
    except Exception:  # what a module holds need not be made for copies
        stand_in = model
    else:
        _unwatched(stand_in)
    return trace(stand_in, to_model_device(inputs, model))


def _unwatched(model: nn.Module) -> None:
    """Leave only hooks of PyTorch itself, which may compute weights; others watch."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                home = getattr(hook, "__module__", None) or type(hook).__module__
                if home.partition(".")[0] != "torch":
                    del hooks[key]
