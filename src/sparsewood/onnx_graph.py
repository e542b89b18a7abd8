"""A network as an ONNX model, and what runs one: the only place in which PyTorch's exporter and onnxruntime are called.

Needs the packages onnx, onnxscript and onnxruntime: pip install sparsewood[onnx].
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import Inputs, arguments
from sparsewood.snapshot import untouched

__all__ = [
    "LARGEST",
    "FixedAxes",
    "bounded",
    "bytes_of_tensors",
    "feeds",
    "nodes",
    "opset_of",
    "package",
    "quiet",
    "reason",
    "require_all",
    "session",
    "signatures",
    "sizes",
    "to_onnx",
    "write",
]

LARGEST = 2**31 - 2**20
"""Bytes of tensors up to which a model is one file; protobuf ends at 2 GiB, of which the graph needs a little."""

Model = Any
"""An `onnx.ModelProto`; onnx is not there for everybody."""


class FixedAxes(SparsewoodError):
    """Axes that should stay open are fixed, or bounded, by what the network computes."""


def to_onnx(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    dynamic_shapes: Mapping[str, Any] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int | None = None,
) -> Model:
    """`model`, in eval mode, as an ONNX model: constants folded, BatchNorm folded into the layers before it.

    Args:
        dynamic_shapes: which axes stay open, all by the same `torch.export.Dim`, as `torch.onnx.export` takes them;
            None: none of them.
        output_names: of the tensors that the network returns; None: as PyTorch names them.
        opset: the version of the operators; None: the one that PyTorch recommends.

    Raises `SparsewoodError` if a package is missing, or PyTorch cannot export the network, and `FixedAxes` if the axes
    are not open after all: PyTorch exports them fixed then, without a word.
    """
    for name in ("onnx", "onnxscript"):
        package(name)
    positional, keywords = arguments(example_inputs)
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        torch.compiler.reset()  # PyTorch compiles their loops; what is left of other exports could fix their axes
    with quiet(), untouched(model), torch.no_grad():
        try:
            program = torch.onnx.export(
                model,
                positional if keywords else (*positional, {}),  # a last dict is taken for keyword inputs
                None,
                kwargs=dict(keywords),
                dynamo=True,
                verbose=False,
                dynamic_shapes=None if dynamic_shapes is None else dict(dynamic_shapes),
                output_names=output_names,
                opset_version=opset,
            )
        except Exception as error:
            raise SparsewoodError(
                f"torch.onnx.export of {type(model).__name__} failed: {type(error).__name__}: {reason(error)}."
            ) from error
    assert program is not None
    found = program.model_proto
    if opset is not None and opset != opset_of(found):
        raise SparsewoodError(
            f"PyTorch cannot write {type(model).__name__} with opset {opset}; it wrote {opset_of(found)}. Leave opset "
            "out."
        )
    if dynamic_shapes is not None:
        _name_axes(found, dynamic_shapes, program.exported_program)
    return found


def _name_axes(model: Model, dynamic_shapes: Mapping[str, Any], program: Any) -> None:
    """Give the open axes the name that was asked for; PyTorch does so only where all inputs are tensors."""
    wanted = [axes for axes in tree_leaves(dynamic_shapes) if axes is not None]
    taken = {name for _, shape in sizes(model.graph.input) for name in shape if isinstance(name, str)}
    count = sum(isinstance(name, str) for _, shape in sizes(model.graph.input) for name in shape)
    if count != len(wanted) or len(taken) != 1 or bounded(program):
        raise FixedAxes(f"{len(wanted) - count} of {len(wanted)} axes are fixed in the exported network.")
    symbol, name = taken.pop(), wanted[0].__name__
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", name, axis.dim_param)


def bounded(program: torch.export.ExportedProgram) -> bool:
    """Whether an open axis of the inputs may not have every size from 1 on."""
    places = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"]
    axes = [size for value in places if isinstance(value, Tensor) for size in value.shape]
    symbols = {axis.node.expr for axis in axes if isinstance(axis, torch.SymInt)}
    spans = [span for symbol, span in program.range_constraints.items() if symbol in symbols]
    return any(int(span.lower) > 1 or "oo" not in str(span.upper) for span in spans)


def session(model: Model | str | os.PathLike[str], *, threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU for a model or a file of one.

    `threads` is how many it computes with; None: as many as PyTorch. Raises `SparsewoodError` if onnxruntime is missing
    or cannot run the model.
    """
    runtime = package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong is raised
    if not isinstance(model, str | os.PathLike) and bytes_of_tensors(model) > LARGEST:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "model.onnx"
            write(model, path)
            return session(path, threads=threads)
    content = os.fspath(model) if isinstance(model, str | os.PathLike) else model.SerializeToString()
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class of their own
        raise SparsewoodError(
            f"onnxruntime cannot run this model: {type(error).__name__}: {reason(error)}. It runs float32 "
            "everywhere; for models in bfloat16 or float16 export a copy, copy.deepcopy(model).float()."
        ) from error


def feeds(running: Any, example_inputs: Inputs) -> dict[str, np.ndarray]:
    """What `running.run(None, ...)` takes: the tensors of the example inputs under the names of the model's inputs."""
    given = [leaf for leaf in tree_leaves(arguments(example_inputs)) if isinstance(leaf, Tensor)]
    taken = running.get_inputs()
    if len(given) != len(taken):
        raise SparsewoodError(
            f"The ONNX model takes {len(taken)} tensors ({', '.join(one.name for one in taken)}), and the example "
            f"inputs hold {len(given)}. Pass the tensors that the network computes with, each once."
        )
    return {one.name: _array(one.name, tensor) for one, tensor in zip(taken, given, strict=True)}


def write(model: Model, path: str | os.PathLike[str]) -> None:
    """Write the model to `path`; what is larger than `LARGEST` with its tensors beside it, in a file PATH.data."""
    onnx = package("onnx")
    if bytes_of_tensors(model) <= LARGEST:
        onnx.save_model(model, os.fspath(path))
        return
    copied = type(model)()
    copied.CopyFrom(model)  # onnx takes the tensors out of what it writes beside the file
    beside = Path(f"{os.fspath(path)}.data")
    beside.unlink(missing_ok=True)  # it would be appended to
    onnx.save_model(copied, os.fspath(path), save_as_external_data=True, location=beside.name)


def sizes(values: Sequence[Any]) -> Iterator[tuple[str, tuple[int | str, ...]]]:
    """Names and shapes of a graph's inputs or outputs; open axes are names, "" where the model does not name them."""
    for value in values:
        axes = value.type.tensor_type.shape.dim
        yield value.name, tuple(axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in axes)


def signatures(values: Sequence[Any]) -> Iterator[tuple[str, str, tuple[int | str, ...]]]:
    """Names, dtypes and shapes of a graph's inputs or outputs."""
    onnx = package("onnx")
    for value, (name, shape) in zip(values, sizes(values), strict=True):
        yield name, onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name, shape


def opset_of(model: Model) -> int:
    """The version of ONNX's own operators."""
    return next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))


def nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph, and of the graphs inside of loops and conditions."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from nodes(inner)


def package(name: str) -> ModuleType:
    """The package; raises `SparsewoodError` that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SparsewoodError(
            f"ONNX needs the package {name}. Install it: pip install onnx onnxruntime onnxscript"
        ) from error


def require_all() -> None:
    """Raise `SparsewoodError` now if one of the packages is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        package(name)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, PyTorch's exporters neither warn nor log nor print graphs: what is wrong is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def reason(error: BaseException) -> str:
    """What was wrong, in one line; PyTorch's exporter of ONNX hides it in the cause.

    >>> reason(RuntimeError("Could not guard on data-dependent expression u0.\\nMore lines."))
    'Could not guard on data-dependent expression u0: its forward decides by the values of tensors (if, while), ...'
    """
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    first = (lines[0] if lines else type(cause).__name__).rstrip(".:")
    advice = next((advice for words, advice in _ADVICE.items() if words in first), "")
    return f"{first}: {advice}" if advice else first


_ADVICE = {
    "sparse CSR": "sparse kernels are PyTorch's own; export the dense network, or a state dict",
    "sparse BSR": "sparse kernels are PyTorch's own; export the dense network, or a state dict",
    "data-dependent": "its forward decides by the values of tensors (if, while), which an exported network cannot; use "
    "torch.where, or torch.cond",
    "not a known type": "return tuples, lists and dicts of tensors, or register the class with "
    "torch.export.register_dataclass",
}


def bytes_of_tensors(model: Model) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def _array(name: str, tensor: Tensor) -> np.ndarray:
    if tensor.dtype is torch.bfloat16:
        raise SparsewoodError(
            f"Input {name!r} is bfloat16, which NumPy and onnxruntime on the CPU do not take. Export a copy in "
            "float32, copy.deepcopy(model).float(), and inputs in float32."
        )
    return np.ascontiguousarray(tensor.detach().cpu().numpy())
