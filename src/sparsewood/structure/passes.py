"""Running a model for its trace: without values where that works, every way that values decide, training too."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood import inputs
from sparsewood.structure.axes import Axes, meta_like, set_axes
from sparsewood.structure.integers import attributes_tracked
from sparsewood.structure.kept import attributes_kept
from sparsewood.structure.modes import Functions, Operations, modules_of
from sparsewood.structure.tracer import NeedsValues, Tracer

__all__ = ["outputs_of", "run"]

_MAX_PASSES = 16
_NO_OUTPUT = "no tensor was found in what the network returns"


def run(model: nn.Module, names: Mapping[int, str], example_inputs: Any, tracer: Tracer) -> None:
    """All passes that a trace needs. `names` maps the ids of modules to their names."""
    _passes(model, names, example_inputs, tracer)
    unused = any(span.param not in tracer.used for span in tracer.spans)
    if unused or tracer.knows_its_mode:
        _in_training(model, names, example_inputs, tracer)


def _passes(model: nn.Module, names: Mapping[int, str], example_inputs: Any, tracer: Tracer) -> None:
    try:
        _all_ways(model, names, example_inputs, tracer, real=False)
    except Exception as error:  # whatever a forward may raise on tensors without values
        cause = error.__cause__ or error
        tracer.fallback = f"{type(cause).__name__}: {cause}"
        _all_ways(model, names, example_inputs, tracer, real=True)


def _all_ways(model: nn.Module, names: Mapping[int, str], example_inputs: Any, tracer: Tracer, *, real: bool) -> None:
    """Both sides of every truth value that depends on data; a way on which the forward raises is none."""
    todo: list[list[bool]] = [[]]
    failed: Exception | None = None
    succeeded = False
    for _ in range(_MAX_PASSES):
        if not todo:
            break
        tracer.choices = todo.pop(0)
        given = len(tracer.choices)
        try:
            _forward(model, names, example_inputs, tracer, real=real)
            succeeded = True
        except Exception as error:
            if not tracer.chosen or (not real and _is_for_lack_of_values(error)):
                raise
            failed = failed or error
        todo += [[*tracer.chosen[:i], not tracer.chosen[i]] for i in range(given, len(tracer.chosen))]
    if not succeeded and failed is not None:
        raise failed
    if todo and not real:
        raise NeedsValues(f"more than {_MAX_PASSES} ways through the forward depend on values")
    if todo:
        tracer.escaped = f"more than {_MAX_PASSES} ways through the forward depend on values"


def _is_for_lack_of_values(error: Exception) -> bool:
    cause = error.__cause__ or error
    return isinstance(cause, NeedsValues | NotImplementedError) or "meta" in str(cause)


@contextmanager
def _mode_watched(tracer: Tracer) -> Iterator[None]:
    """Whether a module asks if it is training; PyTorch's own modules then only draw noise."""

    def get(module: nn.Module) -> bool:
        if not type(module).__module__.startswith("torch.nn.modules."):
            tracer.knows_its_mode = True
        if "training" not in vars(module):
            raise AttributeError("training")  # and so the module's own way to find it is taken
        return vars(module)["training"]

    def put(module: nn.Module, value: bool) -> None:
        vars(module)["training"] = value

    nn.Module.training = property(get, put)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        del nn.Module.training


def _in_training(model: nn.Module, names: Mapping[int, str], example_inputs: Any, tracer: Tracer) -> None:
    """What is done in training only (auxiliary heads) belongs to the structure too."""
    used, fallback = set(tracer.used), tracer.fallback
    tracer.in_training = True
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # it refuses one value per channel
            module.eval()
    try:
        _passes(model, names, example_inputs, tracer)
    except Exception as error:  # training may need more than the example: labels, for one
        tracer.training_error = f"{type(error).__name__}: {error}"
        tracer.used = used  # what the pass met before it failed was not followed to its end
    finally:
        model.eval()
        tracer.fallback = fallback
    tracer.used |= used


def _forward(model: nn.Module, names: Mapping[int, str], example_inputs: Any, tracer: Tracer, *, real: bool) -> None:
    tracer.begin(real=real)
    first = next(chain(model.parameters(), model.buffers()), None)
    tracer.device = first.device if first is not None else torch.device("cpu")
    prepared = inputs.map_tensors(lambda tensor: _input(tensor, tracer), example_inputs)
    with ExitStack() as stack:
        stack.enter_context(attributes_kept(model))
        stack.enter_context(attributes_tracked(model, tracer))
        stack.enter_context(modules_of(names, tracer))
        stack.enter_context(Operations(tracer))
        stack.enter_context(Functions(tracer))
        stack.enter_context(_mode_watched(tracer))
        output = inputs.call(model, prepared)
    found = outputs_of(output)
    for tensor in found:
        tracer.finish(tensor)
    if not found:
        tracer.escaped = _NO_OUTPUT
    tracer.complete = tracer.complete or (tracer.events, tracer.costs)  # of the first way through, in eval mode


def _input(tensor: Tensor, tracer: Tracer) -> Tensor:
    if tracer.real or not (tensor.is_floating_point() or tensor.is_complex()):
        stand_in = tensor.detach().to(tracer.device).clone()
    else:
        stand_in = meta_like(tensor)
    set_axes(stand_in, Axes((None,) * tensor.dim(), (False,) * tensor.dim()))
    return stand_in


def outputs_of(value: Any) -> list[Tensor]:
    """The tensors that count as outputs; those in objects that are no containers only if there are no others.

    >>> outputs_of({"logits": torch.ones(1), "cache": object()})
    [tensor([1.])]
    """
    return list(_outputs(value)) or list(_inside(value, 3))


def _outputs(value: Any) -> Iterable[Tensor]:
    """Tensors in tuples, lists, mappings and dataclasses; other objects among them, such as caches, are left out."""
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


def _inside(value: Any, depth: int) -> Iterable[Tensor]:
    """Tensors that an object of any kind holds, where nothing else was returned."""
    if depth and isinstance(getattr(value, "__dict__", None), dict):
        for item in vars(value).values():
            yield from _outputs(item)
            yield from _inside(item, depth - 1)
