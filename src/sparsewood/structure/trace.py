"""`trace`: the structure of a network, from one forward pass."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any, Literal

import torch
from torch import nn

from sparsewood.errors import SparsewoodError, require_model
from sparsewood.snapshot import untouched
from sparsewood.structure.groups import assemble
from sparsewood.structure.labels import Reason
from sparsewood.structure.passes import run
from sparsewood.structure.structure import Structure
from sparsewood.structure.tracer import Tracer

__all__ = ["trace"]


def trace(model: nn.Module, example_inputs: Any, *, attention: Literal["heads", "head_dims"] = "heads") -> Structure:
    """Find which positions of which parameters have to go together when a network gets narrower.

    The model is run once on `example_inputs` (a tensor, a tuple of positional inputs, or a dict of keyword inputs),
    in eval mode and without gradients, on tensors that have shapes but no values; where its forward needs values, it is
    run on real ones. Where a truth value decides that depends on data, both ways are followed. If eval mode leaves
    parameters unused (auxiliary heads) or a module asks whether it is training, a pass in train mode is added. The
    model is left as it was found.

    Every position along every parameter axis gets a label, and each operation couples labels, carries them along or
    freezes them; connected labels are one unit. An operation that no rule describes freezes what reaches it, and
    `structure.barriers` says so. `requires_grad` and grad mode do not matter; wrappers (compiled, data-parallel) are
    looked through, with the parameter names of the model that was passed.

    `attention`: what goes from an attention layer, whole heads (`"heads"`: the function stays exact), or the same
    places of every head (`"head_dims"`: the heads get narrower, and with them the scale of the scores changes). Heads
    that share keys and values stay together.

    Raises `SparsewoodError` if the model is none, has lazy parameters, or cannot be run on the inputs.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    >>> structure = trace(model, torch.zeros(1, 3, 8, 8))
    >>> structure.prunable
    (Group('0', 8 units, 7 slices),)
    >>> [(one.param, one.axis, len(one.owner)) for one in structure.group("0").slices if one.role == "in"]
    [('4.weight', 1, 288)]
    """
    require_model(model)
    if attention not in ("heads", "head_dims"):
        raise SparsewoodError(f"The 'attention' parameter of trace must be 'heads' or 'head_dims'. Got {attention!r}.")
    inner = _unwrapped(model)
    tracer = Tracer()
    with untouched(inner, training=False, buffers=False), _quiet():
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            tracer.register(name, tensor)
        for name, module in model.named_modules():
            if hasattr(module, "_packed_params"):
                why = "its quantised weights are no parameters, so they stay"
                tracer.notes.append(Reason(type(module).__name__, name, "", why))
        run(inner, {id(module): name for name, module in model.named_modules()}, example_inputs, tracer)
    return assemble(tracer, attention=attention)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside a compiled or data-parallel wrapper."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # pyright: ignore[reportAssignmentType]
        else:
            return model


@contextmanager
def _quiet() -> Iterator[None]:
    """No gradients, no compilation, no fused attention that hides its parts, and no search for garbage meanwhile."""
    collects = gc.isenabled()
    gc.disable()  # a trace makes many small objects that stay, and every search would look at all there are
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            warnings.catch_warnings(),
            torch.inference_mode(False),
            torch.no_grad(),
            _not_compiled(),
        ):
            # The hooks that follow the modules fire for a compiled part and for what is inside it; that does no harm.
            warnings.filterwarnings("ignore", message=r"Using `torch.compile\(module\)` when there are global hooks")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        if collects:
            gc.enable()


def _not_compiled() -> AbstractContextManager[object]:
    """Compiled parts run as they are written; without the compiler loaded, which takes a second, there are none."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
