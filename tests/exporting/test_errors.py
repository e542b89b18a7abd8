"""What cannot be exported is refused with what to do, and leaves no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood import onnx_graph
from sparsewood.errors import OutputError, SparsewoodError, UnknownName
from sparsewood.exporting import onnx_model
from sparsewood.exporting.comparing import compare

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Built = tuple[nn.Module, Any]


class Function(nn.Module):
    """A network that is a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Counting(nn.Module):
    """Python remembers how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


X = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Function(lambda x: x + torch.randn_like(x)), "random or remembers earlier calls"),
        (Counting(), "random or remembers earlier calls"),
        (Function(lambda x: x * 2 if x.sum() > 0 else x), "decides by the values of tensors"),
        (Function(lambda x: {"a": x, "b": object()}), "returns a object under 'b'"),
        (Function(lambda x: None), "returns no tensor"),  # noqa: ARG005
        (Function(lambda x: x.reshape(7, 7)), "forward of Function .* failed"),
        (nn.Linear(3, 2, device="meta"), "'weight' of Linear is on the meta device"),
    ],
)
def test_a_file_that_would_compute_something_else_is_not_written(
    model: nn.Module, message: str, tmp_path: Path
) -> None:
    (tmp_path / "net.onnx").write_text("as before")
    with pytest.raises(SparsewoodError, match=message):
        sw.export(model, tmp_path / "net.onnx", X)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_text() == "as before"


def test_the_check_sees_what_is_wrong_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that is off by 1 % of the outputs is found, and allowed if asked for."""
    model = nn.Linear(3, 2)
    write = onnx_graph.write

    def altered(found: Any, path: Path) -> None:
        import onnx

        for tensor in found.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor) * 1.01
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype("float32"), tensor.name))
        write(found, path)

    monkeypatch.setattr(onnx_graph, "write", altered)
    with pytest.raises(SparsewoodError, match=r"something else on example inputs \(batch 2\).*allowed is 0.00035"):
        sw.export(model, tmp_path / "net.onnx", X)
    assert list(tmp_path.iterdir()) == []
    report = sw.export(model, tmp_path / "net.onnx", X, tolerance=0.02)
    assert report.max_relative_difference == pytest.approx(0.01, rel=0.02)


def test_values_that_only_other_inputs_show() -> None:
    """A file that was right for the example inputs alone is found out by other values."""
    frozen = torch.zeros(2, 3)
    with pytest.raises(SparsewoodError, match="something else on other values"):
        compare(nn.Identity(), lambda _: [frozen], torch.zeros(2, 3), batches=False, tolerance=None)


def test_inputs_on_which_the_network_fails_are_noted() -> None:
    """Other values than the examples may be nonsense; that is said, and no error."""

    def root(x: Tensor) -> Tensor:
        return x.sqrt()

    found = compare(Function(root), lambda x: [root(x)], torch.ones(2, 3), batches=True, tolerance=None)
    assert [one.batch for one in found.differences] == [2, 1, 3]
    assert "not finite" in found.notes[0]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"path": "net"}, SparsewoodError, "ending of .*net' says no format"),
        ({"path": "net.onx"}, SparsewoodError, "says no format"),
        ({"format": "tflite"}, UnknownName, "Unknown format 'tflite'"),
        ({"example_inputs": None}, SparsewoodError, "Give example_inputs"),
        ({"model": nn.ReLU(), "example_inputs": torch.tensor(1.0)}, SparsewoodError, "dynamic_batch=False"),
        ({"tolerance": -1.0}, SparsewoodError, "tolerance must be"),
        ({"path": "net.pt", "opset": 18}, SparsewoodError, "Only ONNX has an opset"),
        ({"opset": 999}, SparsewoodError, "cannot write Linear with opset 999"),
        ({"model": nn.Linear}, SparsewoodError, "must be a torch.nn.Module"),
        ({"path": "."}, OutputError, "no regular file"),
        ({"path": "file/net.onnx"}, OutputError, "Cannot write to directory"),
    ],
)
def test_settings_that_mean_nothing(
    settings: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    given: dict[str, Any] = {"model": nn.Linear(3, 2), "path": "net.onnx", "example_inputs": X, **settings}
    if settings.get("path") == ".":
        given["format"] = "onnx"
    given["path"] = tmp_path / given["path"]
    with pytest.raises(error, match=message):
        sw.export(**given)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_bfloat16_is_not_what_onnxruntime_runs(tmp_path: Path) -> None:
    """As ONNX it is refused with what to do, other formats take it."""
    model, x = nn.Linear(3, 2).bfloat16(), X.bfloat16()
    with pytest.raises(SparsewoodError, match=r"copy.deepcopy\(model\).float\(\)"):
        sw.export(model, tmp_path / "net.onnx", x)
    assert sw.export(model, tmp_path / "net.pt2", x).max_difference == 0
    assert sw.export(model, tmp_path / "net.safetensors", x).max_difference == 0


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(SparsewoodError, match=f"needs the package {missing}. Install it: pip install"):
        sw.export(nn.Linear(3, 2), tmp_path / "net.onnx", X)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["onnx", "pt2", "safetensors", "pt"])
def test_a_full_disk_leaves_nothing(ending: str, room_for: Callable[[int], Any], tmp_path: Path) -> None:
    with room_for(1000), pytest.raises(OutputError, match=r"Cannot write file .*File too large"):
        sw.export(nn.Linear(100, 100), tmp_path / f"net.{ending}", torch.randn(2, 100))
    assert list(tmp_path.iterdir()) == []


def test_complex_numbers_that_safetensors_cannot_hold(tmp_path: Path) -> None:
    model = nn.Linear(2, 2, dtype=torch.complex128)
    with pytest.raises(SparsewoodError, match=r"complex128.*Export to a .pt file"):
        sw.export(model, tmp_path / "net.safetensors")
    sw.export(model, tmp_path / "net.pt")


def test_inputs_that_are_others_than_those_of_the_model() -> None:
    running = onnx_graph.session(onnx_model(nn.Linear(3, 2), X), threads=1)
    with pytest.raises(SparsewoodError, match=r"takes 1 tensors \(input\), and the example inputs hold 2"):
        onnx_graph.feeds(running, (X, X))
