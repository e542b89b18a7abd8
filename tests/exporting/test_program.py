"""Programs of torch.export compute what networks of all sorts do, with any batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

import sparsewood as sw
from sparsewood.exporting.batch import with_batch
from sparsewood.exporting.outputs import named_tensors
from sparsewood.inputs import arguments, call
from sparsewood.onnx_graph import quiet

Built = tuple[nn.Module, Any]
Unchanged = Callable[[nn.Module], AbstractContextManager[None]]
Reference = Callable[[nn.Module, Any], list[torch.Tensor]]
Close = Callable[[list[torch.Tensor], list[Any]], bool]


def test_programs_compute_the_same_on_every_batch(
    built: Built, unchanged: Unchanged, reference: Reference, close: Close, tmp_path: Path
) -> None:
    """What they return has the structure that it has in the network; named tuples become tuples."""
    model, inputs = built
    with unchanged(model):
        report = sw.export(model, tmp_path / "net.pt2", inputs)
    assert report.operators
    assert report.engine.startswith("torch.export")
    for size in (1, 4):
        resized = with_batch(inputs, size)
        found = run(tmp_path / "net.pt2", resized)
        assert close(reference(model, resized), [tensor for _, tensor in named_tensors(found)])
        expected = call(model.eval(), resized)
        if not hasattr(expected, "_fields"):
            assert tree_flatten(found)[1] == tree_flatten(expected)[1]


def run(path: Path, inputs: Any) -> Any:
    positional, keywords = arguments(inputs)
    with quiet(), torch.no_grad():
        return torch.export.load(path).module()(*positional, **keywords)


def test_dataclasses_become_dicts(record: nn.Module, tmp_path: Path) -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    sw.export(record, tmp_path / "net.pt2", x)
    found = run(tmp_path / "net.pt2", x)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"low": [1, 0], "high": [2, 3]}
