"""The formats of files: how each is written, and read back and run."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from sparsewood import onnx_graph
from sparsewood.errors import SparsewoodError
from sparsewood.exporting.onnx_model import onnx_model
from sparsewood.exporting.outputs import named_tensors, plain_containers
from sparsewood.exporting.program import exported_program, operators
from sparsewood.exporting.report import Signature
from sparsewood.inputs import Inputs, arguments, call
from sparsewood.onnx_graph import quiet
from sparsewood.shrinking.copies import duplicate
from sparsewood.shrinking.restoring import require_real, stored

__all__ = ["FORMATS", "Contents", "Format", "Program", "State"]


@dataclass(frozen=True)
class Contents:
    """What a file holds."""

    tensors: int
    operators: Mapping[str, int] = field(default_factory=dict)
    opset: int | None = None
    inputs: tuple[Signature, ...] = ()
    outputs: tuple[Signature, ...] = ()


class Format(Protocol):
    """A kind of file. The networks that it is given are plain copies, in eval mode."""

    def write(self, model: nn.Module, inputs: Inputs, path: Path) -> Contents:
        """Write the network; further files have names that begin with that of `path`."""
        ...

    def reader(self, path: Path, model: nn.Module) -> Callable[[Inputs], Sequence[Tensor]]:
        """What runs the file that was written from `model`."""
        ...

    def engine(self) -> str:
        """What runs it, for the report."""
        ...


@dataclass(frozen=True)
class Onnx:
    """ONNX, run by onnxruntime."""

    dynamic_batch: bool
    opset: int | None

    def write(self, model: nn.Module, inputs: Inputs, path: Path) -> Contents:
        """The graph with its tensors; those of 2 GiB and more are in PATH.data."""
        onnx_graph.require_all()
        found = onnx_model(model, inputs, dynamic_batch=self.dynamic_batch, opset=self.opset)
        onnx_graph.write(found, path)
        return Contents(
            tensors=len(found.graph.initializer),
            operators=Counter(node.op_type for node in onnx_graph.nodes(found.graph)),
            opset=onnx_graph.opset_of(found),
            inputs=tuple(Signature(*one) for one in onnx_graph.signatures(found.graph.input)),
            outputs=tuple(Signature(*one) for one in onnx_graph.signatures(found.graph.output)),
        )

    def reader(self, path: Path, model: nn.Module) -> Callable[[Inputs], Sequence[Tensor]]:  # noqa: ARG002
        """A session of onnxruntime."""
        running = onnx_graph.session(path)
        return lambda inputs: [torch.from_numpy(one) for one in running.run(None, onnx_graph.feeds(running, inputs))]

    def engine(self) -> str:
        """With its version."""
        return f"onnxruntime {onnx_graph.package('onnxruntime').__version__}"


@dataclass(frozen=True)
class Program:
    """A program of torch.export."""

    dynamic_batch: bool

    def write(self, model: nn.Module, inputs: Inputs, path: Path) -> Contents:
        """As `torch.export.save` does; named tuples become tuples, dataclasses that PyTorch does not know dicts."""
        written = duplicate(model, double=False)  # the network that is compared returns what it returns
        plain_containers(written)
        program = exported_program(written, inputs, dynamic_batch=self.dynamic_batch)
        try:
            content = io.BytesIO()  # PyTorch ends the process where it writes to a disk that is full
            with quiet():
                torch.export.save(program, content)
        except Exception as error:
            raise SparsewoodError(
                f"torch.export.save of {type(model).__name__} failed: {type(error).__name__}: "
                f"{onnx_graph.reason(error)}. Export it as ONNX."
            ) from error
        path.write_bytes(content.getbuffer())
        held = {**program.state_dict, **program.constants}
        return Contents(len(held), operators(program))

    def reader(self, path: Path, model: nn.Module) -> Callable[[Inputs], Sequence[Tensor]]:  # noqa: ARG002
        """The program that was loaded, as a module."""
        with quiet():
            module = torch.export.load(path).module()

        def run(inputs: Inputs) -> Sequence[Tensor]:
            positional, keywords = arguments(inputs)
            with torch.no_grad():
                return [tensor for _, tensor in named_tensors(module(*positional, **keywords))]

        return run

    def engine(self) -> str:
        """With its version."""
        return f"torch.export {torch.__version__}"


@dataclass(frozen=True)
class State:
    """Weights and buffers by name, and nothing else: what `load_state_dict` takes."""

    safetensors: bool

    def write(self, model: nn.Module, inputs: Inputs, path: Path) -> Contents:  # noqa: ARG002
        """As safetensors, or as `torch.save` writes a dict. Tensors with several names have all of them."""
        require_real(model)
        tensors, aliases = stored(model)
        for name, kept in aliases.items():  # PyTorch's file notes that they share; in safetensors nothing may
            tensors[name] = tensors[kept].clone() if self.safetensors else tensors[kept]
        ordered = {name: tensors[name] for name in model.state_dict()}
        if self.safetensors:
            _refuse_complex(ordered)
            path.write_bytes(save(ordered, {"format": "pt"}))
        else:
            content = io.BytesIO()
            torch.save(ordered, content)
            path.write_bytes(content.getbuffer())
        return Contents(len(ordered))

    def reader(self, path: Path, model: nn.Module) -> Callable[[Inputs], Sequence[Tensor]]:
        """A copy of the network, emptied and filled from the file, after the file was compared bit by bit."""
        found = load_file(path) if self.safetensors else torch.load(path, weights_only=True)
        state = model.state_dict()
        if found.keys() != state.keys() or not all(_equal(found[name], state[name].cpu()) for name in state):
            raise SparsewoodError(f"What was read back from '{path.name}' is not what was written. Check the disk.")
        filled = duplicate(model, double=False)
        with torch.no_grad():
            for tensor in filled.state_dict().values():
                tensor.zero_()
        filled.load_state_dict(found)

        def run(inputs: Inputs) -> Sequence[Tensor]:
            with torch.no_grad():
                return [tensor for _, tensor in named_tensors(call(filled, inputs))]

        return run

    def engine(self) -> str:
        """With its version."""
        return f"torch {torch.__version__}"


def _equal(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, so that NaN equals itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(
        *(x.contiguous().reshape(-1).view(torch.uint8) for x in (one.resolve_conj(), other.resolve_conj()))
    )


def _refuse_complex(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype is torch.complex128:
            raise SparsewoodError(f"{name!r} is complex128, which safetensors cannot hold. Export to a .pt file.")


FORMATS: Mapping[str, str] = {".onnx": "onnx", ".pt2": "pt2", ".safetensors": "safetensors", ".pt": "pt", ".pth": "pt"}
"""Which format an ending stands for."""
