"""Runs over data up to one layer, for recoveries that treat a network layer after layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.batches import require_batches, split_batch
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import call, to_model_device

__all__ = ["Inputs", "call_order", "model_inputs", "run_up_to"]

Inputs = Any


class _EnoughError(BaseException):
    """The layer was seen. Not an `Exception`: no forward that catches those keeps it."""


def model_inputs(data: Iterable[Any]) -> Iterator[Inputs]:
    """What the model is called with, of batches: a tensor, `(inputs, target)`, or a mapping of keyword inputs.

    Raises `SparsewoodError` for one batch where batches are expected, and if there is none.
    """
    require_batches(data)
    number = -1
    for number, batch in enumerate(data):
        yield split_batch(batch, number)[0]
    if number < 0:
        raise SparsewoodError(
            "The data are empty: no batch was read. They are read several times, which a generator does not allow: "
            "pass a list or a DataLoader."
        )


def call_order(model: nn.Module, layers: Mapping[str, nn.Module], data: Iterable[Any]) -> dict[str, int]:
    """The layers that run on the first batch, in the order of their first calls, and how often each is called."""
    calls: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] = calls.get(name, 0) + 1

        return hook

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(note(name)).remove)
        for inputs in islice(model_inputs(data), 1):
            with torch.no_grad(), attention_called_in_parts():
                call(model, to_model_device(inputs, model))
    return calls


def run_up_to(
    model: nn.Module, layer: nn.Module, calls: int, inputs: Inputs, see: Callable[[Tensor, Any], None]
) -> None:
    """Run `model`, call `see(input, output)` for every call of `layer`, and stop after the last of `calls`."""
    left = calls

    def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        nonlocal left
        see(arguments[0] if arguments else keywords["input"], output)
        left -= 1
        if not left:
            raise _EnoughError

    handle = layer.register_forward_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad(), attention_called_in_parts():
            call(model, to_model_device(inputs, model))
    except _EnoughError:
        pass
    finally:
        handle.remove()


@contextmanager
def attention_called_in_parts() -> Iterator[None]:
    """Encoder layers call their linear layers, which they do not in one fused operation."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
