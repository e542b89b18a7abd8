"""`sparsewood pack` and `sparsewood unpack`: from what was saved to one file and back, the table, and errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sparsewood as sw
from sparsewood.models.sources import load_model
from sparsewood.run.cli import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def saved() -> torch.nn.Module:
    """A shrunk network in the directory `small`."""
    torch.default_generator.manual_seed(0)
    model = load_model("small_conv")
    found = sw.shrink(model, torch.zeros(1, 1, 8, 8), sparsity=0.5).model
    sw.apply_masks(found, sw.prune(found, sw.Magnitude(), sparsity=0.8))
    sw.save(found, "small")
    return found


def same(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_saved_network_is_packed_and_unpacked(saved: torch.nn.Module, capsys: Captured) -> None:
    assert main(["pack", "small", "--model", "small_conv", "--output", "out/small.swp"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["tensor", "scheme", "entries", "non-zero"]
    assert lines[-2:] == ["Written:", "  out/small.swp"]
    total = next(line.split() for line in lines if line.startswith("all "))
    assert int(total[-3].replace(",", "")) == Path("out/small.swp").stat().st_size
    assert main(["unpack", "out/small.swp", "--model", "small_conv", "--output", "again"]) == 0
    parameters = sum(parameter.numel() for parameter in saved.parameters())
    assert capsys.readouterr().out.splitlines() == [
        f"small_conv: {parameters:,} parameters, {len(saved.state_dict())} tensors",
        "",
        "Written:",
        "  again/model.safetensors",
        "  again/plan.json",
    ]
    for name in ("model.safetensors", "plan.json"):
        assert Path("small", name).read_bytes() == Path("again", name).read_bytes()


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt"])
def test_files_of_weights_and_parameters_of_the_model(file: str, capsys: Captured) -> None:
    model = load_model("mlp", width=7, depth=2)
    if file.endswith(".pt"):
        torch.save(model.state_dict(), file)
    else:
        save_file(model.state_dict(), file)
    settings = ["--set", "width=7", "--set", "depth=2"]
    assert main(["pack", file, "--model", "mlp", *settings, "--output", "w.swp", "--tensors", "1"]) == 0
    assert "more tensors" in capsys.readouterr().out
    assert main(["unpack", "w.swp", "--model", "mlp", *settings, "--output", "again"]) == 0
    found = load_file("again/model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def test_models_of_ones_own(capsys: Captured) -> None:
    Path("own_models_to_pack.py").write_text("from torch import nn\ndef build(n=3):\n    return nn.Linear(n, 2)\n")
    sw.save(torch.nn.Linear(5, 2), "own")
    try:
        arguments = ["--model", "own_models_to_pack:build", "--set", "n=5"]
        assert main(["pack", "own", *arguments, "--output", "own.swp"]) == 0
        assert main(["unpack", "own.swp", *arguments, "--output", "again"]) == 0
    finally:
        sys.modules.pop("own_models_to_pack", None)
    assert "12 parameters, 2 tensors" in capsys.readouterr().out
    assert same(Path("own/model.safetensors"), Path("again/model.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pack", "nowhere", "--model", "small_conv", "--output", "x.swp"], "There is no network at 'nowhere'"),
        (["pack", "small", "--model", "small_cnv", "--output", "x.swp"], "Did you mean 'small_conv'"),
        (["pack", "small", "--model", "lenet_300_100", "--output", "x.swp"], "made from another network"),
        (["pack", "small", "--model", "small_conv", "--output", "small"], "no regular file"),
        (["pack", "small", "--model", "small_conv", "--output", "x.swp", "--tensors", "0"], "--tensors must be"),
        (["pack", "small", "--model", "small_conv"], "--output"),
        (["pack", "small", "--output", "x.swp"], "--model"),
        (["pack", "empty", "--model", "small_conv", "--output", "x.swp"], "'empty' holds no network"),
        (["unpack", "nowhere.swp", "--model", "small_conv", "--output", "d"], "No packed network at 'nowhere.swp'"),
        (["unpack", "small/plan.json", "--model", "small_conv", "--output", "d"], "does not begin as a packed file"),
        (["unpack", "good.swp", "--model", "small_conv", "--set", "classes=3", "--output", "d"], "another network"),
        (["unpack", "good.swp", "--model", "small_conv", "--output", "good.swp"], "Cannot write to directory"),
        (["unpack", "good.swp", "--output", "d"], "--model"),
    ],
)
@pytest.mark.usefixtures("saved")
def test_errors_are_one_line(arguments: list[str], message: str, capsys: Captured) -> None:
    Path("empty").mkdir()
    sw.pack(load_model("small_conv"), "good.swp")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("sparsewood: ")
    assert err.count("\n") == 1
    assert not Path("x.swp").exists()
    assert not Path("d").exists()


@pytest.mark.parametrize("command", ["pack", "unpack"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys\nfrom sparsewood.run.cli import main\n"
        f"try:\n    main(['{command}', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in ("--model", "--output", "--set"))
