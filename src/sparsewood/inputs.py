"""Example inputs: what a model is called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError

__all__ = ["arguments", "call", "describe", "map_tensors", "to_model_device"]

Inputs = Any
"""A tensor, a tuple of positional inputs, or a dict of keyword inputs; anything else is one positional input."""


def arguments(example_inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the forward call.

    >>> arguments("x"), arguments(("x", "y")), arguments({"ids": "x"})
    ((('x',), {}), (('x', 'y'), {}), ((), {'ids': 'x'}))
    """
    if isinstance(example_inputs, Mapping):
        return (), {str(name): value for name, value in example_inputs.items()}
    return (example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)), {}


def call(model: nn.Module, example_inputs: Inputs) -> Any:
    """`model(...)` on a tensor, a tuple of positional inputs or a dict of keyword inputs (a list is one input).

    If the forward raises, a `SparsewoodError` says which model failed and on what, with the original error as its
    cause; running out of memory and errors of this library pass through as they are.

    >>> call(nn.Linear(2, 3), torch.ones(5, 2)).shape
    torch.Size([5, 3])
    >>> call(nn.Linear(2, 3), torch.ones(5, 4))
    Traceback (most recent call last):
    sparsewood.errors.SparsewoodError: The forward of Linear (on cpu) failed on the inputs (float32[5, 4] on cpu): ...
    """
    positional, keywords = arguments(example_inputs)
    try:
        return model(*positional, **keywords)
    except (SparsewoodError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise SparsewoodError(
            f"The forward of {type(model).__name__} (on {_places(model)}) failed on the inputs "
            f"({describe(example_inputs)}): {type(error).__name__}: {error}. "
            "Pass example_inputs as one tensor, a tuple of positional inputs, or a dict of keyword inputs, "
            "as the model is called in use."
        ) from error


def refuse_sum(loss: object) -> None:
    """Raise `SparsewoodError` for a loss that is a sum over the batch: what is made of it would depend on its size."""
    named, reduction = type(loss), getattr(loss, "reduction", None)
    if isinstance(loss, partial):
        named, reduction = loss.func, loss.keywords.get("reduction")
    if reduction == "sum":
        name = getattr(named, "__name__", named)
        raise SparsewoodError(
            f"{name}(reduction='sum') returns a sum over the batch; a mean over it is needed. Use reduction='mean'."
        )


def describe(example_inputs: Inputs) -> str:
    """Inputs in one line: dtype, shape and device of tensors, the type of everything else.

    >>> describe((torch.ones(2, 3), [torch.ones(1)], None)), describe({"ids": torch.tensor([1])})
    ('float32[2, 3] on cpu, [float32[1] on cpu], None', 'ids=int64[1] on cpu')
    """
    positional, keywords = arguments(example_inputs)
    parts = [_describe(value) for value in positional]
    return ", ".join(parts + [f"{name}={_describe(value)}" for name, value in keywords.items()])


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)} on {value.device}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_describe, value))}]"
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    return type(value).__name__


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with `function` applied to every tensor in its tuples, lists and dicts.

    >>> map_tensors(lambda tensor: tensor + 1, (torch.tensor(1), {"a": [torch.tensor(2)]}, "kept"))
    (tensor(2), {'a': [tensor(3)]}, 'kept')
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, item) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(function, item) for item in value)
    if isinstance(value, Mapping):
        return {name: map_tensors(function, item) for name, item in value.items()}
    return value


def to_model_device(example_inputs: Inputs, model: nn.Module) -> Inputs:
    """The inputs on the device of the model's first parameter or buffer; as they are if it has neither."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return example_inputs if first is None else map_tensors(lambda tensor: tensor.to(first.device), example_inputs)


def _places(model: nn.Module) -> str:
    devices = sorted({str(tensor.device) for tensor in chain(model.parameters(), model.buffers())})
    return ", ".join(devices) or "no device"
