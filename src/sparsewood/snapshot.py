"""Running a model without leaving a trace on it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsewood.errors import SparsewoodError, require_model

__all__ = [
    "copy_of",
    "kernels_with_backward",
    "memory_of",
    "put_back_entries",
    "same_random_state",
    "untouched",
    "write_back",
]


@contextmanager
def untouched(model: nn.Module, *, training: bool | None = False, buffers: bool = True) -> Iterator[None]:
    """Run `model` inside this block; afterwards it is as it was, also if the block raises.

    Inside, the model is in eval mode (`training=False`), train mode (`True`) or the mode it had (`None`), and every
    `.grad` is `None`, so that a backward pass starts clean; the caller's gradients come back at the end.

    Put back: the training flag of every module, the buffers (objects and values), `requires_grad` and `.grad` of every
    parameter, the memory of parameters whose `.data` is assigned, the weights of embeddings with `max_norm`, which
    these shorten in `forward`, and the random state of Python, of NumPy, and of PyTorch on the CPU and the CUDA devices
    that the model is on. Not put back: parameters whose memory `forward` writes to and plain Python attributes that it
    assigns, for which there is no general way; with `buffers=False`, for callers that know that nothing writes to them,
    neither are buffers.

    Raises `SparsewoodError` if a lazy module has not seen its first input, since that pass is one that must stay.

    >>> norm = nn.BatchNorm1d(2)
    >>> with untouched(norm, training=True):
    ...     _ = norm(torch.ones(4, 2))
    >>> norm.running_mean, norm.num_batches_tracked
    (tensor([0., 0.]), tensor(0))
    """
    require_model(model)
    _refuse_lazy(model)
    restorers = [memory_of(model), _training_flags(model), _gradients(model), _renormalized(model)]
    if buffers:
        restorers.append(_buffers(model))
    with same_random_state(model):
        try:
            if training is not None:
                model.train(training)
            yield
        finally:
            for restore in restorers:
                restore()


def copy_of(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """`copy.deepcopy`, with an error that names the attribute that cannot be copied.

    >>> import threading
    >>> net = nn.Sequential(nn.Linear(1, 1))
    >>> net[0].lock = threading.Lock()
    >>> copy_of(net)
    Traceback (most recent call last):
    sparsewood.errors.SparsewoodError: The 'lock' of Linear '0' cannot be copied: cannot pickle '_thread.lock' object...
    """
    try:
        with torch.no_grad():  # or the weights of scripted modules would be results of the copying, which cannot train
            copied = copy.deepcopy(model, {} if memo is None else dict(memo))
    except Exception as error:
        shared = {id(module): module for module in model.modules()} | ({} if memo is None else memo)
        for name, module in model.named_modules():
            for key, value in vars(module).items():
                try:
                    copy.deepcopy(value, dict(shared))
                except Exception as reason:
                    raise SparsewoodError(
                        f"The {key!r} of {type(module).__name__} {name!r} cannot be copied: {reason}. "
                        "Take it off the model, or give its class a __deepcopy__ or __getstate__ that leaves it out."
                    ) from error
        raise
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in copied.named_parameters():
        if parameter.requires_grad != flags.get(name, parameter.requires_grad):
            parameter.requires_grad_()
    return copied


@contextmanager
def same_random_state(model: nn.Module) -> Iterator[None]:
    """Draw inside this block (a shuffling loader draws when it is read); afterwards the random states are as they were.

    Those of Python, of NumPy, and of PyTorch on the CPU and the CUDA devices that the model is on.

    >>> layer, before = nn.Linear(1, 1), torch.get_rng_state()
    >>> with same_random_state(layer):
    ...     _ = torch.rand(1)
    >>> torch.equal(before, torch.get_rng_state())
    True
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (the state that models may draw from)
    with torch.random.fork_rng(devices=_cuda_devices(model)):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def kernels_with_backward(model: nn.Module) -> AbstractContextManager[None]:
    """cuDNN's recurrent layers have no backward pass in eval mode; PyTorch's own do."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    return torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()


def _refuse_lazy(model: nn.Module) -> None:
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(tensor):
            raise SparsewoodError(
                f"{name!r} of {type(model).__name__} has no shape yet: its lazy module has not seen an input. "
                "Run the model once on a batch first."
            )


def _cuda_devices(model: nn.Module) -> list[int]:
    tensors = chain(model.parameters(), model.buffers())
    return sorted({tensor.get_device() for tensor in tensors if tensor.is_cuda})


def _training_flags(model: nn.Module) -> Callable[[], None]:
    flags = [(module, module.training) for module in model.modules()]

    def restore() -> None:
        for module, flag in flags:
            module.training = flag

    return restore


def _buffers(model: nn.Module) -> Callable[[], None]:
    registered = [(module, dict(module._buffers.items())) for module in model.modules()]
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]

    def restore() -> None:
        for module, buffers in registered:
            put_back_entries(module._buffers, buffers)
        for buffer, value in values:
            write_back(buffer, value)

    return restore


def put_back_entries(now: MutableMapping[str, Any], before: Mapping[str, Any]) -> None:
    """Give a module's parameters or buffers the entries that they had."""
    if isinstance(now, dict):
        now.clear()
        now.update(before)
        return
    found = dict(now.items())  # those of a ScriptModule only look like a dict, and cannot be cleared
    for name in found.keys() - before.keys():
        del now[name]
    for name, tensor in before.items():
        if name not in found or found[name] is not tensor:
            now[name] = tensor


def memory_of(model: nn.Module) -> Callable[[], None]:
    """What gives every parameter back the memory that it has now, if another's is put there (`weight.data = ...`).

    Parameters that are no plain memory (quantised, sparse, shards) are left alone.
    """
    plain = [one for one in model.parameters() if type(one) is nn.Parameter and one.layout is torch.strided]
    memory = [(one, one.detach()) for one in plain if not one.is_meta]

    def restore() -> None:
        for parameter, data in memory:
            alike = parameter.dtype is data.dtype and parameter.device == data.device
            if not (alike and parameter.is_set_to(data)):
                parameter.data = data

    return restore


def write_back(buffer: Tensor, value: Tensor) -> None:
    """Give a tensor the values, and the shape, that it had."""
    # Only what changed is written: a write counts as an in-place change for graphs that saved the buffer.
    comparable = buffer.layout is torch.strided and buffer.shape == value.shape
    if buffer.is_meta or (comparable and torch.equal(buffer, value)):
        return
    with torch.inference_mode(buffer.is_inference()), torch.no_grad():
        if buffer.shape != value.shape:
            buffer.resize_(value.shape)
        buffer.copy_(value)


def _renormalized(model: nn.Module) -> Callable[[], None]:
    layers = [one for one in model.modules() if isinstance(one, nn.Embedding | nn.EmbeddingBag)]
    weights = [(one.weight, one.weight.detach().clone()) for one in layers if one.max_norm is not None]

    def restore() -> None:
        for weight, value in weights:
            write_back(weight, value)

    return restore


def _gradients(model: nn.Module) -> Callable[[], None]:
    saved = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    for parameter, _, _ in saved:
        parameter.grad = None

    def restore() -> None:
        for parameter, requires_grad, gradient in saved:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            parameter.grad = gradient

    return restore
