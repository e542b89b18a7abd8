"""`sparsewood inspect`: the table, explanations and files of any model by name, and errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsewood.models.wheels import ensure_torchvision
from sparsewood.run.cli import inspect_, main
from sparsewood.run.inspect_command import inspect_model

Captured = pytest.CaptureFixture[str]
OWN = "own_models_to_inspect"
CODE = """
import torch
from torch import nn

def bare(width=6):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))

def carrying():
    return bare()

carrying.example_inputs = torch.zeros(1, 4)

def tokens():
    return nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))

def broken():
    raise RuntimeError("no such thing")
"""


@pytest.fixture(autouse=True)
def _own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models of one's own are looked for where the command is given."""
    (tmp_path / f"{OWN}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop(OWN, None)


def test_a_reference_model(capsys: Captured) -> None:
    assert main(["inspect", "lenet5_caffe"]) == 0
    out = capsys.readouterr().out
    first, second, *_ = out.splitlines()
    assert re.fullmatch(r"lenet5_caffe, traced in \d+\.\d\d s", first)
    assert second.startswith("431,080 parameters, > 99.9 % of them in units that can be removed: 3 groups, 570 units")
    assert "10  it is an output of the network" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mlp", "--set", "width=7", "--set", "depth=2"], "7"),
        ([f"{OWN}:carrying"], "6"),
        ([f"{OWN}:bare", "--input-shape", "3,4", "--set", "width=9"], "9"),
    ],
)
def test_parameters_and_models_of_ones_own(arguments: list[str], expected: str, capsys: Captured) -> None:
    assert main(["inspect", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[5].split()[1] == expected


def test_inputs_that_are_no_images(capsys: Captured) -> None:
    assert main(["inspect", f"{OWN}:tokens", "--input-shape", "1,3:int64", "--explain", "0.weight"]) == 0
    assert "its positions are chosen by data (embedding in 0)" in capsys.readouterr().out


def test_explanations_instead_of_the_table(capsys: Captured) -> None:
    assert main(["inspect", f"{OWN}:carrying", "--explain", "0", "--explain", "2.bias"]) == 0
    out = capsys.readouterr().out
    assert "traced in" not in out
    group, parameter = out.split("\n\n")
    assert group.startswith("0: 6 units; with one alone go 7 parameters")
    assert parameter.startswith("2.bias: parameter [2], 2 entries")
    assert "it is an output of the network" in parameter


def test_files(capsys: Captured) -> None:
    arguments = ["--json", "out/s.json", "--svg", "out/s.svg", "--dot", "out/s.dot"]
    assert main(["inspect", f"{OWN}:carrying", *arguments]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-4:] == ["Written:", "  out/s.svg", "  out/s.dot", "  out/s.json"]
    assert json.loads(Path("out/s.json").read_text())["format"] == "sparsewood structure"
    assert Path("out/s.svg").read_text().startswith("<svg")
    assert Path("out/s.dot").read_text().startswith("digraph")


def test_json_on_standard_output_is_alone_there(capsys: Captured) -> None:
    assert main(["inspect", f"{OWN}:carrying", "--json", "-", "--svg", "s.svg"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["parameters"] == 44
    assert "traced in" in captured.err
    assert "s.svg" in captured.err


def test_attention_by_heads_or_dimensions(capsys: Captured) -> None:
    """A tiny vision transformer: two heads of eight."""
    settings = ["img_size=16", "patch_size=8", "embed_dim=16", "depth=1", "num_heads=2", "classes=3"]
    arguments = ["timm:vit_tiny_patch16_224", *(part for one in settings for part in ("--set", one))]
    assert main(["inspect", *arguments]) == 0
    heads = capsys.readouterr().out
    assert any(line.split()[:2] == ["blocks.0.attn.qkv", "2"] for line in heads.splitlines())
    assert main(["inspect", *arguments, "--attention", "head_dims"]) == 0
    assert capsys.readouterr().out != heads


TINY = {
    "resnet_cifar": ["depth=8"],
    "timm:vit_tiny_patch16_224": ["img_size=16", "patch_size=8", "depth=1"],
    "transformers:bert": ["hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=8"],
    "transformers:gpt2": ["n_embd=8", "n_layer=1", "n_head=2"],
    "transformers:t5": ["d_model=16", "d_kv=8", "d_ff=16", "num_layers=1", "num_heads=2"],
    "transformers:whisper": ["d_model=384", "encoder_layers=1", "decoder_layers=1"],
    "transformers:llama": ["hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=8"],
    "transformers:clip": ["text_config={num_hidden_layers: 1}", "vision_config={num_hidden_layers: 1}"],
}
NAMES = [*TINY, "torchvision:resnet50", "torchvision:fcn_resnet50"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_help_need_nothing_else(name: str, capsys: Captured) -> None:
    """Those that `--help` gives, and types of transformers without a task, which get the head that they have."""
    ensure_torchvision()
    pytest.importorskip(name.partition(":")[0] if ":" in name else "torch")
    settings = [part for one in TINY.get(name, ()) for part in ("--set", one)]
    structure = inspect_model(name, settings[1::2])
    assert structure.prunable
    assert "traced in" in capsys.readouterr().out


def test_the_names_of_the_help_are_tested() -> None:
    text = " ".join((inspect_.__doc__ or "").split())
    assert all(name in text for name in ("resnet_cifar", "torchvision:resnet50", "timm:vit_tiny", "transformers:bert"))


def test_large_models_are_built_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr("sparsewood.run.inspect_command._LARGE", 100)
    large = inspect_model("transformers:llama", TINY["transformers:llama"])
    monkeypatch.undo()
    assert repr(large) == repr(inspect_model("transformers:llama", TINY["transformers:llama"]))


def test_the_number_of_lines(capsys: Captured) -> None:
    assert main(["inspect", "resnet_cifar", "--set", "depth=8", "--groups", "1"]) == 0
    assert re.search(r"and \d+ more groups with \d+ units; all of them: .* --groups \d", capsys.readouterr().out)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from sparsewood.run.cli import main\n"
        "try:\n    main(['inspect', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--input-shape" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lenet5_coffee"], "Unknown model 'lenet5_coffee'. Did you mean 'lenet5_caffe'?"),
        ([f"{OWN}:bare"], "Nothing says what inputs 'own_models_to_inspect:bare' takes. Give the shape of one"),
        ([f"{OWN}:bare", "--input-shape", "1;4"], "A shape must be whole numbers >= 1"),
        ([f"{OWN}:bare", "--input-shape", "1,5"], "The forward of Sequential (on cpu) failed on the inputs"),
        ([f"{OWN}:bare", "--set", "width"], "--set width: must be key=value"),
        ([f"{OWN}:bare", "--set", "widht=3"], "has no parameter 'widht'. Did you mean 'width'?"),
        ([f"{OWN}:broken"], "own_models_to_inspect:broken failed: RuntimeError: no such thing"),
        ([f"{OWN}:carrying", "--explain", "conv1"], "Unknown group, parameter or module 'conv1'"),
        ([f"{OWN}:carrying", "--attention", "all"], "all"),
        ([f"{OWN}:carrying", "--svg", f"{OWN}.py/s.svg"], "Cannot write to directory"),
        ([f"{OWN}:broken", "--svg", "."], "Cannot write file '.': it exists and is no regular file"),
        ([f"{OWN}:broken", "--json", "/"], "Cannot write file '/': it exists and is no regular file"),
        ([f"{OWN}:carrying", "--groups", "0"], "--groups must be a whole number >= 1. Got 0"),
        (
            ["transformers:bert", "--set", "task=ctc"],
            "text-classification, causal-lm, masked-lm, none. Add --set task=",
        ),
        ([], "model"),
    ],
)
def test_errors_have_one_line_and_exit_2(arguments: list[str], message: str, capsys: Captured) -> None:
    assert main(["inspect", *arguments]) == 2
    captured = capsys.readouterr()
    assert message.lower() in captured.err.lower()
    assert len(captured.err.strip().splitlines()) == 1
