"""A network as an ONNX model with an open batch and named inputs and outputs, and what runs it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, require_model
from sparsewood.exporting.batch import batch_of, open_batch
from sparsewood.exporting.outputs import flatten_outputs, named_tensors
from sparsewood.exporting.plain import plain_copy
from sparsewood.inputs import Inputs, arguments, call, map_tensors, to_model_device
from sparsewood.onnx_graph import FixedAxes, feeds, session, to_onnx
from sparsewood.snapshot import untouched

__all__ = ["feeds", "fixed_batch", "onnx_model", "output_names", "session"]


def onnx_model(
    model: nn.Module, example_inputs: Inputs, *, dynamic_batch: bool = True, opset: int | None = None
) -> Any:
    """`model`, in eval mode and on the CPU, as an `onnx.ModelProto`; it is not changed.

    Args:
        example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
        dynamic_batch: axis 0 of the first tensor, and of those that are as long there, is open under the name "batch".
        opset: the version of ONNX's operators; None: the one that PyTorch recommends.

    Inputs are called as in the network's forward, outputs as they are called in what it returns ("output" for one
    tensor, keys of a dict, "output_0" ... of a tuple). Convolutions take the BatchNorm behind them into their weights.

    Raises `SparsewoodError` if a package is missing, if PyTorch cannot export the network, and if the batch should be
    open and the network fixes it.

    >>> found = onnx_model(nn.Linear(3, 2), torch.ones(4, 3))
    >>> [(one.name, [axis.dim_param or axis.dim_value for axis in one.type.tensor_type.shape.dim])
    ...     for one in (*found.graph.input, *found.graph.output)]
    [('input', ['batch', 3]), ('output', ['batch', 2])]
    >>> running = session(found, threads=1)
    >>> running.run(None, feeds(running, torch.ones(7, 3)))[0].shape
    (7, 2)
    """
    require_model(model)
    copied = plain_copy(model).cpu()
    inputs = map_tensors(lambda tensor: tensor.detach().clone(), to_model_device(example_inputs, copied))
    names = output_names(copied, inputs)
    flatten_outputs(copied)
    if not dynamic_batch:
        return to_onnx(copied, inputs, output_names=names, opset=opset)
    traced, shapes = open_batch(copied, inputs)
    try:
        return to_onnx(copied, traced, dynamic_shapes=shapes, output_names=names, opset=opset)
    except FixedAxes as error:
        raise SparsewoodError(fixed_batch(model, batch_of(traced))) from error


def output_names(model: nn.Module, inputs: Inputs) -> list[str]:
    """What the tensors are called that the network returns, from one forward; as nothing that goes in is called."""
    with torch.no_grad(), untouched(model):
        names = [name for name, _ in named_tensors(call(model, map_tensors(torch.clone, inputs)))]
    positional, keywords = arguments(inputs)
    given = inspect.signature(model.forward).bind(*positional, **keywords).arguments
    containers = tuple(f"{name}_" for name, value in given.items() if not isinstance(value, Tensor))
    return [f"output_{name}" if name in {*given, *keywords} or name.startswith(containers) else name for name in names]


def fixed_batch(model: nn.Module, batch: int | None) -> str:
    """The message for a network that cannot have an open batch; `batch` is the one that it was traced with."""
    return (
        f"{type(model).__name__} fixes or bounds the size of axis 0 of its inputs, which is taken for the batch (here "
        f"{batch}): in its forward there is a reshape to a written number, a buffer of that size, or the like. Export "
        "it with dynamic_batch=False (--fixed-batch on the command line) and example inputs of the batch that it is "
        "used with, or write the size as x.shape[0]."
    )
