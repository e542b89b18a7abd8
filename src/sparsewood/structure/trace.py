"""`trace`: the structure of a network, from one forward pass."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsewood import inputs
from sparsewood.errors import SparsewoodError, require_model
from sparsewood.snapshot import untouched
from sparsewood.structure.axes import Axes, meta_like, set_axes
from sparsewood.structure.groups import assemble
from sparsewood.structure.integers import attributes_tracked
from sparsewood.structure.modes import Functions, Operations, modules_of
from sparsewood.structure.structure import Structure
from sparsewood.structure.tracer import NeedsValues, Tracer

__all__ = ["trace"]

_MAX_PASSES = 16


def trace(model: nn.Module, example_inputs: Any, *, attention: Literal["heads", "head_dims"] = "heads") -> Structure:
    """Find which positions of which parameters have to go together when a network gets narrower.

    The model is run once on `example_inputs` (a tensor, a tuple of positional inputs, or a dict of keyword inputs),
    in eval mode and without gradients, on tensors that have shapes but no values; where its forward needs values, it is
    run on real ones. Where a truth value decides that such a tensor does not have, both ways are followed. If eval mode
    leaves parameters unused (auxiliary heads), a pass in train mode is added. The model is left as it was found.

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
    (Group('0', 8 units, 6 slices),)
    >>> [(one.param, one.axis, len(one.owner)) for one in structure.group("0").slices if one.role == "in"]
    [('4.weight', 1, 288)]
    """
    require_model(model)
    if attention not in ("heads", "head_dims"):
        raise SparsewoodError(f"The 'attention' parameter of trace must be 'heads' or 'head_dims'. Got {attention!r}.")
    inner = _unwrapped(model)
    tracer = Tracer()
    with _attributes_kept(inner), untouched(inner, training=False, buffers=False), _quiet():
        for name, tensor in _tensors(model):
            tracer.register(name, tensor)
        _passes(inner, example_inputs, tracer)
        if any(span.param not in tracer.used for span in tracer.spans):
            _in_training(inner, example_inputs, tracer)
    return assemble(tracer, attention=attention)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


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
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """What the forward assigns to attributes or puts into their dicts and lists has no values: it is taken back."""
    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    values = [value for _, known in attributes for value in known.values()]
    copies = [(value, value.copy()) for value in values if type(value) in (dict, list, set)]
    try:
        yield
    finally:
        for now, before in attributes:
            for name in now.keys() - before.keys():
                del now[name]
            for name, value in before.items():
                if name not in now or now[name] is not value:
                    now[name] = value
        for value, copy in copies:
            _put_back(value, copy)


def _put_back(value: Any, before: Any) -> None:
    """The contents that a dict, list or set had, where they changed."""
    if isinstance(value, dict):
        same = value.keys() == before.keys() and all(value[key] is before[key] for key in before)
    else:
        same = len(value) == len(before) and all(a is b for a, b in zip(value, before, strict=True))
    if not same:
        value.clear()
        value.extend(before) if isinstance(value, list) else value.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """No gradients, no compilation, no fused attention that hides its parts."""
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


def _not_compiled() -> AbstractContextManager[object]:
    """Compiled parts run as they are written; without the compiler loaded, which takes a second, there are none."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _passes(model: nn.Module, example_inputs: Any, tracer: Tracer) -> None:
    """Run the model without values, trying both sides of every decision that depends on them; else with values."""
    try:
        _all_branches(model, example_inputs, tracer)
    except Exception as error:  # whatever a forward may raise on tensors without values
        tracer.fallback = f"{type(error).__name__}: {error}"
        _forward(model, example_inputs, tracer, real=True)


def _all_branches(model: nn.Module, example_inputs: Any, tracer: Tracer) -> None:
    todo: list[list[bool]] = [[]]
    for _ in range(_MAX_PASSES):
        tracer.choices = todo.pop()
        given = len(tracer.choices)
        try:
            _forward(model, example_inputs, tracer, real=False)
        except NeedsValues:
            raise
        except Exception:
            if not given:  # the way that real values take is not known; with values it is
                raise
        todo += [[*tracer.chosen[:i], not tracer.chosen[i]] for i in range(given, len(tracer.chosen))]
        if not todo:
            return
    raise NeedsValues(f"more than {_MAX_PASSES} ways through the forward depend on values")


def _in_training(model: nn.Module, example_inputs: Any, tracer: Tracer) -> None:
    """What is used in training only (auxiliary heads) belongs to the structure too."""
    used, fallback = set(tracer.used), tracer.fallback
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # it refuses one value per channel
            module.eval()
    try:
        _passes(model, example_inputs, tracer)
    except Exception as error:  # training may need more than the example: labels, two images for a BatchNorm
        tracer.training_error = f"{type(error).__name__}: {error}"
    finally:
        model.eval()
        tracer.fallback = fallback
    tracer.used |= used


def _forward(model: nn.Module, example_inputs: Any, tracer: Tracer, *, real: bool) -> None:
    tracer.begin(real=real)
    first = next((tensor for _, tensor in _tensors(model)), None)
    tracer.device = first.device if first is not None else torch.device("cpu")
    prepared = inputs.map_tensors(lambda tensor: _input(tensor, tracer), example_inputs)
    with ExitStack() as stack:
        stack.enter_context(attributes_tracked(model, tracer))
        stack.enter_context(modules_of(model, tracer))
        stack.enter_context(Operations(tracer))
        stack.enter_context(Functions(tracer))
        output = inputs.call(model, prepared)
    for tensor in _outputs(output):
        tracer.finish(tensor)
    tracer.complete = tracer.complete or (tracer.events, tracer.costs)  # of the first way through, in eval mode


def _input(tensor: Tensor, tracer: Tracer) -> Tensor:
    if tracer.real:
        tensor = tensor.to(tracer.device)
        stand_in = tensor.detach().view_as(tensor)
    elif tensor.is_floating_point() or tensor.is_complex():
        stand_in = meta_like(tensor)
    else:
        stand_in = tensor.to(tracer.device).detach().clone()
    set_axes(stand_in, Axes((None,) * tensor.dim(), (False,) * tensor.dim()))
    return stand_in


def _outputs(value: Any) -> Iterable[Tensor]:
    """Tensors in tuples, lists, mappings and dataclasses; other objects, such as caches, are not looked into."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _outputs(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _outputs(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _outputs(getattr(value, field.name))
