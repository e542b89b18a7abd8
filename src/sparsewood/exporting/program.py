"""A network as a program of `torch.export`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.exporting.batch import batch_of, open_batch
from sparsewood.exporting.onnx_model import fixed_batch
from sparsewood.inputs import Inputs, arguments, map_tensors
from sparsewood.onnx_graph import bounded, quiet, reason
from sparsewood.snapshot import untouched

__all__ = ["exported_program"]


def exported_program(model: nn.Module, inputs: Inputs, *, dynamic_batch: bool) -> torch.export.ExportedProgram:
    """`model` by `torch.export.export`, in eval mode, with an open batch if asked for.

    Raises `SparsewoodError` if PyTorch cannot export it, or it fixes its batch.
    """
    traced, shapes = open_batch(model, inputs) if dynamic_batch else (inputs, None)
    positional, keywords = arguments(map_tensors(torch.clone, traced) if shapes is None else traced)
    try:
        with quiet(), untouched(model), torch.no_grad():
            program = torch.export.export(model, positional, keywords, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        if dynamic_batch and "Constraints violated" in str(error):
            raise SparsewoodError(fixed_batch(model, batch_of(traced))) from error
        raise SparsewoodError(
            f"torch.export of {type(model).__name__} failed: {type(error).__name__}: {reason(error)}."
        ) from error
    if dynamic_batch and bounded(program):
        raise SparsewoodError(fixed_batch(model, batch_of(traced)))
    return program


def operators(program: torch.export.ExportedProgram) -> dict[str, int]:
    """How often each operator is called."""
    found: dict[str, int] = {}
    for node in program.graph.nodes:
        if node.op == "call_function":
            name = _name(node.target)
            found[name] = found.get(name, 0) + 1
    return found


def _name(target: Any) -> str:
    """ "aten.linear" of torch.ops.aten.linear.default."""
    return str(getattr(target, "overloadpacket", None) or getattr(target, "__name__", target))
