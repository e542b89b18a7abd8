"""`sparsewood export`: from what was saved to files for other programs, the report, and errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import sparsewood as sw
from sparsewood.exporting import session
from sparsewood.models.sources import load_model
from sparsewood.run.cli import main

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Captured = pytest.CaptureFixture[str]
OWN = "own_models_to_export"
CODE = """
import torch
from torch import nn

class Tokens(nn.Module):
    def __init__(self, words=11):
        super().__init__()
        self.embed, self.out = nn.Embedding(words, 4), nn.Linear(4, 2)
    def forward(self, ids, scale):
        return {"logits": self.out(self.embed(ids).mean(1)) * scale}

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
    def forward(self, x):
        return self.fc(x).reshape(4, 2)
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / f"{OWN}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop(OWN, None)


@pytest.fixture
def saved() -> torch.nn.Module:
    """A shrunk network in the directory `small`."""
    torch.default_generator.manual_seed(0)
    found = sw.shrink(load_model("small_conv"), torch.zeros(1, 1, 8, 8), sparsity=0.5).model
    sw.save(found, "small")
    return found


def test_a_saved_network_becomes_onnx(saved: torch.nn.Module, capsys: Captured) -> None:
    """The library says what it takes; the batch is open."""
    assert main(["export", "small", "--model", "small_conv", "--output", "out/small.onnx"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("file       out/small.onnx, onnx, ")
    assert lines[-2:] == ["Written:", "  out/small.onnx"]
    assert any(line.startswith("another batch ") for line in lines)
    running = session("out/small.onnx", threads=1)
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        expected = saved.eval()(x).numpy()
    (given,) = running.get_inputs()
    assert given.shape == ["batch", 1, 8, 8]
    assert np.allclose(running.run(None, {given.name: x.numpy()})[0], expected, atol=1e-5)


@pytest.mark.parametrize("ending", ["pt2", "safetensors", "pt"])
def test_other_formats(saved: torch.nn.Module, ending: str, capsys: Captured) -> None:
    assert main(["export", "small", "--model", "small_conv", "--output", f"small.{ending}"]) == 0
    assert "example inputs" in capsys.readouterr().out
    if ending != "pt2":
        path = f"small.{ending}"
        found = load_file(path) if ending == "safetensors" else torch.load(path, weights_only=True)
        assert all(torch.equal(found[name], value) for name, value in saved.state_dict().items())


def test_a_model_of_ones_own_with_two_inputs(capsys: Captured) -> None:
    """Weights from a file, shapes and dtypes from the command line, a parameter of the model, and kernels."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        sw.export(load_model(f"{OWN}:Tokens", words=7), "tokens.pt")
    finally:
        sys.path.remove(str(Path.cwd()))
    arguments = ["export", "tokens.pt", "--model", f"{OWN}:Tokens", "--set", "words=7", "--output", "net.onnx"]
    arguments += ["--input-shape", "2,6:int64", "--input-shape", "2,1", "--kernels", "csr", "--kernels", "2:4"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "inputs     ids int64[batch, 6]" in out
    assert "outputs    logits float32[batch, 2]" in out
    assert "\nWritten:\n  net.onnx\n" in out[: out.index("No layer is faster with a sparse kernel")]
    assert "2:4 skipped: it needs an NVIDIA device" in out


def test_weights_of_ones_own_need_no_inputs(capsys: Captured) -> None:
    assert main(["export", "--model", f"{OWN}:Tokens", "--output", "net.safetensors"]) == 0
    assert "bit by bit" in capsys.readouterr().out
    assert set(load_file("net.safetensors")) == {"embed.weight", "out.weight", "out.bias"}


def test_a_fixed_batch(capsys: Captured) -> None:
    arguments = ["export", "--model", f"{OWN}:Fixed", "--input-shape", "4,3", "--output", "net.onnx"]
    assert main(arguments) == 2
    assert "--fixed-batch" in capsys.readouterr().err
    assert main([*arguments, "--fixed-batch", "--opset", "18", "--tolerance", "1e-3"]) == 0
    out = capsys.readouterr().out
    assert "of opset 18" in out
    assert "allowed 1e-03" in out
    assert session("net.onnx", threads=1).get_inputs()[0].shape == [4, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--model", "small_conv", "--output", "x.onnx"], "There is no network at 'nowhere'"),
        (["small", "--model", "small_cnv", "--output", "x.onnx"], "Did you mean 'small_conv'"),
        (["small", "--model", "lenet_300_100", "--output", "x.onnx"], "made from another network"),
        (["small", "--model", "small_conv", "--output", "small", "--format", "onnx"], "no regular file"),
        (["small", "--model", "small_conv", "--output", "x.tflite"], "says no format"),
        (["small", "--model", "small_conv", "--output", "x.onnx", "--format", "tflite"], "--format"),
        (["small", "--model", "small_conv", "--output", "x.onnx", "--input-shape", "1,a"], "A shape must be"),
        (["small", "--model", "small_conv", "--output", "x.onnx", "--input-shape", "1,2,8,8"], "failed on the inputs"),
        (["small", "--model", "small_conv", "--output", "x.pt", "--opset", "18"], "Only ONNX has an opset"),
        (["small", "--model", "small_conv", "--output", "x.pt", "--kernels", "csc"], "--kernels"),
        (["--model", f"{OWN}:Tokens", "--output", "x.onnx"], "--input-shape"),
        (["small", "--model", "small_conv"], "--output"),
        (["small", "--output", "x.onnx"], "--model"),
        (["empty", "--model", "small_conv", "--output", "x.onnx"], "'empty' holds no network"),
    ],
)
@pytest.mark.usefixtures("saved")
def test_errors_are_one_line(arguments: list[str], message: str, capsys: Captured) -> None:
    Path("empty").mkdir()
    assert main(["export", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("sparsewood: ")
    assert err.count("\n") == 1
    assert not list(Path.cwd().glob("x.*"))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom sparsewood.run.cli import main\n"
        "try:\n    main(['export', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'numpy', 'onnx'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in ("--model", "--output", "--input-shape", "--fixed-batch"))
