"""Running a model without leaving a trace on it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsewood.errors import SparsewoodError, require_model

__all__ = ["kernels_with_backward", "same_random_state", "untouched", "write_back"]


@contextmanager
def untouched(model: nn.Module, *, training: bool | None = False, buffers: bool = True) -> Iterator[None]:
    """Run `model` inside this block; afterwards it is as it was, also if the block raises.

    Inside, the model is in eval mode (`training=False`), train mode (`True`) or the mode it had (`None`), and every
    `.grad` is `None`, so that a backward pass starts clean; the caller's gradients come back at the end.

    Put back: the training flag of every module, the buffers (objects and values), `requires_grad` and `.grad` of every
    parameter, the weights of embeddings with `max_norm`, which these shorten in `forward`, and the random state of
    Python, of NumPy, and of PyTorch on the CPU and the CUDA devices that the model is on. Not put back: other parameter
    values and plain Python attributes that `forward` assigns, for which there is no general way; with `buffers=False`,
    for callers that know that nothing writes to them, neither are buffers.

    Raises `SparsewoodError` if a lazy module has not seen its first input, since that pass is one that must stay.

    >>> norm = nn.BatchNorm1d(2)
    >>> with untouched(norm, training=True):
    ...     _ = norm(torch.ones(4, 2))
    >>> norm.running_mean, norm.num_batches_tracked
    (tensor([0., 0.]), tensor(0))
    """
    require_model(model)
    _refuse_lazy(model)
    restorers = [_training_flags(model), _gradients(model), _renormalized(model)]
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
            now = dict(module._buffers.items())  # a ScriptModule's buffers only look like a dict
            for name in now.keys() - buffers.keys():
                del module._buffers[name]
            for name, buffer in buffers.items():
                if name not in now or now[name] is not buffer:
                    module._buffers[name] = buffer
        for buffer, value in values:
            write_back(buffer, value)

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
