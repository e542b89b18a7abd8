"""Exporting: names, formats, files, folded layers."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood import onnx_graph
from sparsewood.exporting import onnx_model, session

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Built = tuple[nn.Module, Any]
FILES = ["net.onnx", "net.pt2", "net.safetensors", "net.pt"]


def test_names_of_inputs_and_outputs(network: Callable[[str], Built], tmp_path: Path) -> None:
    """As in the forward and in what it returns."""
    model, inputs = network("two inputs")
    report = sw.export(model, tmp_path / "net.onnx", inputs)
    assert [str(one) for one in report.inputs] == ["image float32[batch, 3, 8, 8]", "ids int64[batch, 5]"]
    outputs = [("logits", ("batch", 4)), ("more_0", ("batch", 5, 4)), ("more_2", ())]
    assert [(one.name, one.shape) for one in report.outputs] == outputs
    text = str(report)
    assert "outputs    logits float32[batch, 4]" in text
    assert "another batch" in text
    assert "other values" in text


def test_an_output_is_not_called_as_an_input(tmp_path: Path) -> None:
    """In one graph that would be one value."""

    class Steps(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"x": 2 * x, "y": 3 * x}

    report = sw.export(Steps(), tmp_path / "net.onnx", torch.randn(2, 3))
    assert [one.name for one in report.outputs] == ["output_x", "y"]


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_a_forward_may_write_to_its_inputs(ending: str, tmp_path: Path) -> None:
    """But not to the example inputs."""

    class Writing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.add_(1) * 2

    x = torch.randn(2, 3)
    before = x.clone()
    report = sw.export(Writing(), tmp_path / f"net.{ending}", x)
    assert torch.equal(x, before)
    assert report.max_difference == 0


def test_batchnorm_is_folded_into_convolutions(network: Callable[[str], Built]) -> None:
    model, inputs = network("two inputs")
    operators = [node.op_type for node in onnx_model(model, inputs).graph.node]
    assert operators.count("Conv") == 2
    assert "BatchNormalization" not in operators


def test_a_fixed_batch(network: Callable[[str], Built], tmp_path: Path) -> None:
    model, inputs = network("two inputs")
    report = sw.export(model, tmp_path / "net.onnx", inputs, dynamic_batch=False)
    assert not report.dynamic_batch
    assert report.inputs[0].shape == (2, 3, 8, 8)
    assert {one.batch for one in report.differences} == {2}
    program = sw.export(model, tmp_path / "net.pt2", inputs, dynamic_batch=False)
    assert {one.batch for one in program.differences} == {2}


@pytest.mark.parametrize("opset", [18, 20])
def test_the_opset(opset: int, tmp_path: Path) -> None:
    report = sw.export(nn.Linear(3, 2), tmp_path / "net.onnx", torch.randn(2, 3), opset=opset)
    assert report.opset == opset


@pytest.mark.parametrize("file", FILES)
def test_a_format_can_be_named_and_a_link_is_followed(file: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "network")
    report = sw.export(nn.Linear(3, 2), link, torch.randn(2, 3), format=Path(file).suffix[1:])  # pyright: ignore
    assert link.is_symlink()
    assert report.path == link
    assert [one.name for one in (tmp_path / "real").iterdir()] == ["network"]


def test_without_a_check_nothing_is_run(tmp_path: Path) -> None:
    report = sw.export(nn.Linear(3, 2), tmp_path / "net.onnx", torch.randn(2, 3), check=False)
    assert report.differences == ()
    assert report.max_difference is None
    assert "checked    no" in str(report)


def test_hooks_and_attributes_of_the_network_stay(tmp_path: Path) -> None:
    """A hook that changes outputs is a part of what is exported; nothing that tracing makes is left in attributes."""

    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.last = x
            return self.fc(x)

    model = Remembers()
    model.fc.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    hooks = dict(model.fc._forward_hooks)
    python = random.getstate()
    for file in FILES:
        sw.export(model, tmp_path / file, torch.ones(2, 3))
    assert random.getstate() == python
    assert not hasattr(model, "last")
    assert dict(model.fc._forward_hooks) == hooks
    x = torch.randn(2, 3)
    running = session(tmp_path / "net.onnx", threads=1)
    expected = 2 * (x @ model.fc.weight.T + model.fc.bias)
    assert np.allclose(running.run(None, {"x": x.numpy()})[0], expected.detach().numpy(), atol=1e-5)


def test_the_engine_of_latencies_uses_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one place in which networks become ONNX models."""
    from sparsewood.measurement import onnx_times

    called: list[Any] = []
    monkeypatch.setattr(onnx_times, "to_onnx", lambda *given: called.append(given) or onnx_graph.to_onnx(*given))
    run: Any = onnx_times.in_onnxruntime(nn.Linear(3, 2), torch.ones(4, 3))
    assert run()[0].shape == (4, 2)
    assert len(called) == 1
