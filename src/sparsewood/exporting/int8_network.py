"""A network with weights of 8 bits, run by onnxruntime."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from sparsewood.batches import Batch, require_batches, split_batch
from sparsewood.errors import SparsewoodError, UnknownName, require_model
from sparsewood.exporting.int8_inputs import Order
from sparsewood.exporting.int8_layers import Int8Layer
from sparsewood.files import write_atomically
from sparsewood.inputs import call, to_model_device
from sparsewood.onnx_graph import feeds, package, session
from sparsewood.snapshot import untouched

__all__ = ["Agreement", "Int8Network"]


@dataclass(frozen=True)
class Agreement:
    """How near the outputs of two networks are.

    Attributes:
        largest, mean: difference of an output, absolute; infinite if one is not a number.
        relative: `largest` over the largest output of the float network, absolute.
        top1: the share of examples for which the same class has the largest output; None unless the outputs are
            [examples, classes].
        examples: how many there were, by the first axis of the first output.
    """

    largest: float
    mean: float
    relative: float
    top1: float | None
    examples: int


class Int8Network(nn.Module):
    """What `quantize_int8` returns: a module without parameters, which calls onnxruntime.

    It takes what the network took, and returns tensors on the CPU in the same containers. It can be timed
    (`sparsewood.latency`, `sparsewood.compare_latency`), evaluated, copied and pickled; it cannot be trained.

    Attributes:
        layers: one row for each weight, and for each layer with parameters in which none could be quantised.
        folded: by the name of a BatchNorm layer that of the layer that took it in.
        bytes: of the file that `save` writes; `bytes_before` of that of the float32 network.
        threads: that it computes with; None: as many as PyTorch had when it was made.
    """

    def __init__(
        self,
        content: bytes,
        layers: Sequence[Int8Layer],
        folded: Mapping[str, str],
        bytes_before: int,
        *,
        structure: Any,
        order: Order,
        threads: int | None,
    ) -> None:
        super().__init__()
        self.layers, self.folded, self.bytes_before = tuple(layers), dict(folded), bytes_before
        self.threads = threads
        self._content, self._structure, self._order = content, structure, order
        self._session: Any = None
        self.eval()

    @property
    def bytes(self) -> int:
        """Of the file that `save` writes."""
        return len(self._content)

    @property
    def model(self) -> Any:
        """A copy of the network as an `onnx.ModelProto`."""
        return package("onnx").load_from_string(self._content)

    @property
    def integers(self) -> dict[str, Tensor]:
        """The weights of 8 bits by name, as int8 or uint8 tensors shaped like the parameters."""
        return {row.name: row.integers for row in self.layers if row.integers is not None}

    def layer(self, name: str) -> Int8Layer:
        """The row of that name; raises `UnknownName`."""
        rows = {row.name: row for row in self.layers}
        if name not in rows:
            raise UnknownName.among("layer", name, rows)
        return rows[name]

    def forward(self, *positional: Any, **keywords: Any) -> Any:
        """Outputs as the network returned them, on the CPU."""
        if self._session is None:
            self._session = session(self.model, threads=self.threads)
        given = feeds(self._session, self._order.sort(positional, keywords))
        outputs = [torch.from_numpy(np.asarray(one)) for one in self._session.run(None, given)]
        if self._structure is not None:
            return tree_map(outputs.__getitem__, self._structure)
        return dict(zip((one.name for one in self._session.get_outputs()), outputs, strict=True))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ONNX file, complete or not at all. Raises `OutputError` if that cannot be done."""
        write_atomically(path, lambda temporary: temporary.write_bytes(self._content))

    def agreement(self, model: nn.Module, data: Iterable[Batch]) -> Agreement:
        """Compare with the network that it was made from, or another one, on batches; both in eval mode.

        Raises `SparsewoodError` for data that is empty, and outputs of different number or shape.
        """
        require_model(model)
        require_batches(data)
        largest = total = scale = 0.0
        entries = examples = same = 0
        classes = True
        with untouched(model), torch.no_grad():
            for number, batch in enumerate(data):
                inputs = split_batch(batch, number)[0]
                first, second = (_tensors(call(one, to_model_device(inputs, one))) for one in (model, self))
                if [one.shape for one in first] != [one.shape for one in second]:
                    raise SparsewoodError(
                        f"agreement: in batch {number} the networks return {[tuple(one.shape) for one in first]} and "
                        f"{[tuple(one.shape) for one in second]}. Compare networks with the same outputs."
                    )
                for a, b in zip(first, second, strict=True):
                    if not a.numel():
                        continue
                    off = (a.double() - b.double()).abs().nan_to_num(nan=math.inf).where(a != b, 0.0)
                    largest, total = max(largest, float(off.max())), total + float(off.sum())
                    scale, entries = max(scale, float(a.abs().nan_to_num(posinf=0.0).max())), entries + off.numel()
                examples += first[0].shape[0] if first[0].ndim else 1
                classes = classes and first[0].ndim == 2
                same += int((first[0].argmax(1) == second[0].argmax(1)).sum()) if classes else 0
        if not entries:
            raise SparsewoodError("agreement: the data is empty: no batch was read. Pass a list or a DataLoader.")
        relative = largest / scale if scale else float(largest > 0)
        return Agreement(largest, total / entries, relative, same / examples if classes else None, examples)

    def __str__(self) -> str:
        heads = ("layer", "operator", "weight", "values", "bytes before", "after", "runs as, or why not")
        rows = [
            (
                row.name,
                row.operator,
                row.scheme,
                str(row.values) if row.quantized else "",
                f"{row.bytes_before:,}",
                f"{row.bytes_after:,}",
                row.kernel if row.quantized else row.reason,
            )
            for row in self.layers
        ]
        total = ("file", "", "", "", f"{self.bytes_before:,}", f"{self.bytes:,}", "")
        table = (heads, *rows, total)
        widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
        adjust = (str.ljust, str.ljust, str.ljust, str.rjust, str.rjust, str.rjust, str.ljust)
        return "\n".join(
            "  ".join(pad(cell, width) for pad, cell, width in zip(adjust, row, widths, strict=True)).rstrip()
            for row in table
        )

    def __repr__(self) -> str:
        count = sum(row.quantized for row in self.layers)
        return f"Int8Network({count} of {len(self.layers)} layers, {self.bytes:,} of {self.bytes_before:,} bytes)"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}  # a session cannot be copied; it is built again


def _tensors(output: Any) -> list[Tensor]:
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return [leaf.detach().cpu() for leaf in leaves]
