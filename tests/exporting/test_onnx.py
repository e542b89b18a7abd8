"""[EX] ONNX files compute what networks of all sorts do, with any batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood import onnx_graph
from sparsewood.exporting import session
from sparsewood.exporting.batch import with_batch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Built = tuple[nn.Module, Any]
Unchanged = Callable[[nn.Module], AbstractContextManager[None]]
Reference = Callable[[nn.Module, Any], list[torch.Tensor]]
Close = Callable[[list[torch.Tensor], list[Any]], bool]
NETWORKS = ["two inputs", "by keyword", "lstm", "functional", "scalar", "nested inputs", "half", "zeros"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("masked", "attention")]


@pytest.mark.parametrize("name", [*NETWORKS, *SLOW])
def test_onnx_computes_the_same_on_every_batch(
    name: str,
    network: Callable[[str], Built],
    unchanged: Unchanged,
    reference: Reference,
    close: Close,
    tmp_path: Path,
) -> None:
    """With a dynamic batch, run here by hand; the report's numbers come from a comparison of its own."""
    model, inputs = network(name)
    with unchanged(model):
        report = sw.export(model, tmp_path / "net.onnx", inputs)
    assert list(tmp_path.iterdir()) == [tmp_path / "net.onnx"]
    assert report.bytes == (tmp_path / "net.onnx").stat().st_size
    assert report.dynamic_batch
    assert {one.shape[0] for one in report.inputs} == {"batch"}
    running = session(tmp_path / "net.onnx", threads=1)
    assert [one.name for one in running.get_inputs()] == [one.name for one in report.inputs]
    for size in (1, 2, 5):
        resized = with_batch(inputs, size)
        assert close(reference(model, resized), running.run(None, onnx_graph.feeds(running, resized)))
    assert report.max_relative_difference is not None
    assert report.tolerance is not None
    assert report.max_relative_difference <= report.tolerance
    assert [one.inputs for one in report.differences][:1] == ["example inputs"]
    batches = {one.batch for one in report.differences}
    assert 1 in batches
    assert len(batches) >= 2


def test_loops_of_earlier_exports_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch compiles the loop of an LSTM, and guards of the one before could fix the batch of the next."""
    called: list[bool] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: called.append(True))
    onnx_graph.to_onnx(nn.Linear(3, 2), torch.ones(2, 3))
    assert called == []
    onnx_graph.to_onnx(nn.LSTM(3, 2), torch.ones(2, 3))
    assert called == [True]
