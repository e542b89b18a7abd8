"""Exporting networks that were pruned, and large ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood import onnx_graph
from sparsewood.exporting import onnx_model, session
from sparsewood.models.sources import load_model

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Reference = Callable[[nn.Module, Any], list[torch.Tensor]]
Close = Callable[[list[torch.Tensor], list[Any]], bool]


def test_a_shrunk_network(tmp_path: Path, reference: Reference, close: Close) -> None:
    """As what `shrink` returns; half of the channels are gone in the file."""
    torch.default_generator.manual_seed(0)
    dense = load_model("resnet_cifar", depth=8)
    shrunk = sw.shrink(dense, torch.zeros(1, 3, 16, 16), sparsity=0.5)
    x = torch.randn(2, 3, 16, 16)
    report = sw.export(shrunk, tmp_path / "small.onnx", x)
    whole = sw.export(dense, tmp_path / "whole.onnx", x)
    assert report.operators == whole.operators
    assert report.bytes < 0.5 * whole.bytes
    running = session(tmp_path / "small.onnx", threads=1)
    assert close(reference(shrunk.model, x), running.run(None, onnx_graph.feeds(running, x)))


def test_masks_of_this_library(tmp_path: Path) -> None:
    torch.default_generator.manual_seed(0)
    model = load_model("small_conv")
    sw.apply_masks(model, sw.prune(model, sw.Magnitude(), sparsity=0.9))
    report = sw.export(model, tmp_path / "net.onnx", torch.randn(2, 1, 8, 8))
    import onnx

    weights = [onnx.numpy_helper.to_array(one) for one in onnx.load(report.path).graph.initializer]
    zeros = sum(int((one == 0).sum()) for one in weights if one.ndim > 1)
    assert zeros == sum(int((p == 0).sum()) for p in model.parameters() if p.dim() > 1) > 0


def test_large_models_have_their_tensors_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: Reference, close: Close
) -> None:
    """What protobuf cannot hold is in a second file; the limit is lowered, as 2 GiB take too long here."""
    monkeypatch.setattr(onnx_graph, "LARGEST", 10_000)
    torch.default_generator.manual_seed(0)
    model, x = nn.Linear(100, 100), torch.randn(2, 100)
    report = sw.export(model, tmp_path / "net.onnx", x)
    assert [path.name for path in report.files] == ["net.onnx", "net.onnx.data"]
    assert sorted(tmp_path.iterdir()) == list(report.files)
    assert report.bytes == sum(path.stat().st_size for path in tmp_path.iterdir()) > 40_000
    assert (tmp_path / "net.onnx").stat().st_size < 10_000
    running = session(tmp_path / "net.onnx", threads=1)
    assert close(reference(model, x), running.run(None, onnx_graph.feeds(running, x)))
    found = onnx_model(model, x)
    for _ in range(2):  # what is run from memory keeps its tensors
        assert session(found, threads=1).run(None, {"input": x.numpy()})[0].shape == (2, 100)
    monkeypatch.undo()
    assert [path.name for path in sw.export(model, tmp_path / "small.onnx", x).files] == ["small.onnx"]
