"""`sparsewood shrink`: end to end on real data, what it writes, the preview, and errors. Requirement 002-10."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rich.progress
import torch
from safetensors.torch import load_file

import sparsewood as sw
from sparsewood.data import Split, digits
from sparsewood.data.loader import Loader
from sparsewood.run import shrink_work
from sparsewood.run.cli import main
from sparsewood.run.progress import progress
from sparsewood.run.shrink_work import of_size

Captured = pytest.CaptureFixture[str]

RECIPE = """\
name: tiny
data: digits
model: {name: small_conv, widths: [8, 8], hidden: 32, batch_norm: true}
training:
  epochs: 4
  batch_size: 64
  optimizer: {name: SGD, lr: 0.05}
shrink:
  budget: {name: MACs, amount: 0.3}
  samples: 256
  bias_propagation: true
  least_squares: true
  recalibrate: true
retraining: {epochs: 1, optimizer: {lr: 0.01}}
repeats: 3
"""
BARE = """\
name: bare
model: {name: small_conv, widths: [8, 8], hidden: 32}
shrink: {sparsity: 0.5}
repeats: 0
"""
OWN = "own_models_to_shrink"
FILES = ["model.safetensors", "plan.json", "recipe.yaml", "shrink.csv", "shrink.json"]


def network() -> torch.nn.Module:
    return sw.models.small_conv([8, 8], hidden=32, batch_norm=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the whole recipe, carried out."""
    directory = tmp_path_factory.mktemp("shrink")
    recipe = directory / "tiny.yaml"
    recipe.write_text(RECIPE)
    root = directory / "out"
    assert main(["shrink", str(recipe), "--output", str(root), "--json", str(directory / "also.json"), "--quiet"]) == 0
    return root


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recipe without data, in the working directory."""
    (tmp_path / f"{OWN}.py").write_text(
        "from torch import nn\n"
        "def tokens(): return nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 2))\n"
        "def whole(): return nn.Linear(3, 2)\n"
        "def normal(): return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2))\n"
    )
    (tmp_path / "bare.yaml").write_text(BARE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "bare.yaml"
    sys.modules.pop(OWN, None)


def summary(root: Path) -> dict[str, object]:
    return json.loads((root / "shrink.json").read_text())


def measure(root: Path, name: str) -> dict[str, str]:
    with (root / "shrink.csv").open(newline="") as stream:
        return next(row for row in csv.DictReader(stream) if row["measure"] == name)


# ---------------------------------------------------------------- end to end


def test_what_is_written(done: Path) -> None:
    assert sorted(path.name for path in done.iterdir() if path.is_file() and path.name != "lock") == FILES
    (dense,) = (path for path in done.iterdir() if path.is_dir())
    assert dense.name.startswith("dense-")
    assert summary(done) == json.loads((done.parent / "also.json").read_text())


def test_the_document_names_every_field(done: Path) -> None:
    section = (Path(__file__).parents[2] / "docs" / "format.md").read_text().partition("## The summary of `shrink`")[2]
    told = section.partition("\n## ")[0]
    rows = [line for line in told.splitlines() if line.startswith("| `")]
    names = [name for row in rows for name in row.split("|")[1].replace("`", "").replace(" ", "").split(",")]
    assert sorted(names) == sorted(summary(done))
    for name in measure(done, "parameters"):
        assert f"`{name}`" in told


def test_the_saved_network_is_the_reported_one(done: Path) -> None:
    values = summary(done)
    model = sw.load(done, model=network())
    split = digits()
    for part, name in ((split.validation, "fine-tuned"), (split.test.open(), "small")):
        told = {**values["validation"], **values["test"]}[name]  # pyright: ignore
        found = sw.evaluate(model, Loader(part, 1000), topk=(1,))
        assert (found.top[1], found.samples) == (told["accuracy"], told["samples"])
        assert found.loss == pytest.approx(told["loss"], rel=1e-6)
    assert sum(p.numel() for p in model.parameters()) == float(measure(done, "parameters")["after"])
    assert sw.measure(model, torch.zeros(1, 1, 8, 8), repeats=0).macs == float(measure(done, "MACs")["after"])


def test_the_budget_is_met_and_the_removal_proven(done: Path) -> None:
    macs, values = measure(done, "MACs"), summary(done)
    assert 0.29 * float(macs["before"]) < float(macs["after"]) <= 0.3 * float(macs["before"])
    assert float(macs["ratio"]) == float(macs["before"]) / float(macs["after"])
    told = values["budget"]
    assert (told["budget"], told["reached"]) == ("MACs(0.3)", float(macs["after"]))  # pyright: ignore
    assert told["allowed"] == 0.3 * float(macs["before"]) // 1  # pyright: ignore
    assert (values["exact"], values["verified"]) == (True, True)
    assert values["max_difference"] < 1e-9  # pyright: ignore
    gone = sum(group["before"] - group["after"] for group in values["units"].values())  # pyright: ignore
    assert gone == values["removed"]


def test_bytes_are_those_of_the_files(done: Path) -> None:
    row = measure(done, "model.safetensors")
    assert int(row["after"]) == (done / "model.safetensors").stat().st_size
    sw.save(network(), done.parent / "whole")
    assert int(row["before"]) == (done.parent / "whole" / "model.safetensors").stat().st_size


def test_latency_has_quartiles_at_both_batch_sizes(done: Path) -> None:
    for size in (1, 16):
        row = measure(done, f"latency, batch {size}")
        for when in ("before", "after"):
            assert 0 < float(row[f"{when}_q25"]) <= float(row[when]) <= float(row[f"{when}_q75"])
    assert summary(done)["latency"]["16"]["after"]["repeats"] == 3  # pyright: ignore


def test_accuracy_after_each_step(done: Path) -> None:
    values = summary(done)
    validation = {name: one["accuracy"] for name, one in values["validation"].items()}  # pyright: ignore
    assert list(validation) == ["dense", "shrunk", "least squares", "recalibrated", "fine-tuned"]
    assert validation["dense"] > 0.85
    assert validation["least squares"] > validation["shrunk"]
    assert set(values["recovery"]) == {"least squares", "recalibrated", "fine-tuned"}  # pyright: ignore
    assert list(values["test"]) == ["dense", "small"]  # pyright: ignore
    row = measure(done, "validation, right after shrinking (bias propagation)")
    assert (float(row["before"]), float(row["after"])) == (validation["dense"], validation["shrunk"])


def test_the_dense_training_is_done_once(done: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other settings of `shrink` begin with the same dense network; a preview speaks of it, too."""
    dense = summary(done)["validation"]["dense"]  # pyright: ignore
    recipe, output = str(done.parent / "tiny.yaml"), ["--output", str(done)]
    other = ["--set", "shrink={sparsity: 0.25}", "--set", "retraining=null"]

    def none(*_: object, **__: object) -> None:
        raise AssertionError("the dense network was trained again")

    before = {path.name: path.read_bytes() for path in done.iterdir() if path.is_file() and path.name != "lock"}
    monkeypatch.setattr("sparsewood.run.trainings.fit", none)
    assert main(["shrink", recipe, *output, "--preview"]) == 0
    assert "The weights are those of the training in" in capsys.readouterr().out
    assert {name: (done / name).read_bytes() for name in before} == before
    assert main(["shrink", recipe, *output, *other]) == 0
    values = summary(done)
    assert (values["validation"]["dense"], values["budget"]) == (dense, None)  # pyright: ignore
    assert list(values["validation"]) == ["dense", "shrunk"]  # pyright: ignore
    for name, content in before.items():  # as the other tests expect it
        (done / name).write_bytes(content)


def test_the_test_part_is_opened_once(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits: list[Split] = []
    real = shrink_work.load_split
    monkeypatch.setattr(shrink_work, "load_split", lambda recipe: splits.append(real(recipe)) or splits[-1])
    assert main(["shrink", str(bare), "--set", "data=digits", "--set", "retraining={epochs: 1}"]) == 0
    assert [split.test.openings for split in splits] == [1]
    assert main(["shrink", str(bare), "--set", "data=digits", "--preview"]) == 0
    assert [split.test.openings for split in splits] == [1, 0]


# ---------------------------------------------------------------- without data


def test_without_data(bare: Path, capsys: Captured) -> None:
    assert main(["shrink", str(bare)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "small_conv: 24 of 48 units go"
    assert "The weights are those that small_conv is built with." in out
    assert "validation" not in out
    assert "latency" not in out
    root = Path("runs/bare")
    lines = out.splitlines()
    assert lines[-1] == f'  sw.load("{root}", model=...)'
    assert sorted(line.strip() for line in lines[-2 - len(FILES) : -2]) == [str(root / name) for name in FILES]
    assert [line.split() for line in lines if line.startswith("features.")] == [
        [name, "8", str(group["after"]), str(8 - group["after"])]
        for name, group in summary(root)["units"].items()  # pyright: ignore
        if name.startswith("features.")
    ]
    values = summary(root)
    assert (values["removed"], values["asked"], values["dataset"], values["test"]) == (24, 24, None, {})
    assert values["inputs"] == "float32[1, 1, 8, 8] on cpu"
    model = sw.load(root, model=sw.models.small_conv([8, 8], hidden=32))
    assert sw.measure(model, torch.zeros(1, 1, 8, 8), repeats=0).params == float(measure(root, "parameters")["after"])


def test_weights_from_a_file_are_those_that_shrink(bare: Path) -> None:
    """What stays are the weights of the file, at the positions that the plan names."""
    dense = sw.models.small_conv([8, 8], hidden=32, generator=torch.Generator().manual_seed(5))
    torch.save(dense.state_dict(), "w.pt")
    assert main(["shrink", str(bare), "--set", "weights=w.pt", "--output", "out"]) == 0
    small = load_file("out/model.safetensors")
    kept = sw.shrink(dense, torch.zeros(1, 1, 8, 8), 0.5).plan.kept
    assert torch.equal(small["hidden.bias"], dense.state_dict()["hidden.bias"][kept["hidden.bias"][0]])


@pytest.mark.parametrize(
    "budget", ["{name: Params, amount: 0.4}", "{name: Bytes, amount: 8000}", "{name: MACs, amount: 0.5}"]
)
def test_budgets_are_met(bare: Path, budget: str) -> None:
    assert main(["shrink", str(bare), "--set", f"shrink={{budget: {budget}}}", "--output", "out", "--preview"]) == 0
    assert not Path("out").exists()
    assert (
        main(["shrink", str(bare), "--set", f"shrink={{budget: {budget}}}", "--output", "out", "--json", "s.json"]) == 0
    )
    params = measure(Path("out"), "parameters")
    if "Params" in budget:
        assert 0.39 < float(params["after"]) / float(params["before"]) <= 0.4
    if "Bytes" in budget:
        assert 7700 < 4 * float(params["after"]) <= 8000


def test_inputs_of_other_models(bare: Path, capsys: Captured) -> None:
    settings = ["--set", f"model={OWN}:tokens", "--set", "inputs=['2,3:int64']"]
    assert main(["shrink", str(bare), *settings, "--output", "out"]) == 0
    assert summary(Path("out"))["inputs"] == "int64[2, 3] on cpu"
    assert main(["shrink", str(bare), *settings, "--set", "repeats=2", "--output", "out"]) == 0
    assert "latency, batch 16 [us]" in capsys.readouterr().out


def test_inputs_of_another_batch_size() -> None:
    image, number = of_size((torch.arange(6.0).reshape(2, 3), torch.tensor(7)), 4)
    assert torch.equal(image, torch.arange(3.0).expand(4, 3))
    assert number.item() == 7


# ---------------------------------------------------------------- preview


def test_preview_shows_groups_sizes_and_reasons(bare: Path, capsys: Captured) -> None:
    arguments = ["--set", "shrink={sparsity: 0.5, scope: PerLayer, protect: [hidden], round_to: 4}"]
    assert main(["shrink", str(bare), "--preview", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["features.0", "8", "4", "4"] for line in lines)
    assert any(line.split() == ["hidden", "32", "32", "0"] for line in lines)
    assert "  hidden: it is protected" in lines
    assert any(line.endswith("it is an output of the network") for line in lines)
    assert any(line.startswith("parameters") for line in lines)
    assert not Path("runs").exists()


def test_a_preview_says_what_comes(bare: Path, capsys: Captured) -> None:
    assert main(["shrink", str(bare), "--preview", "--json", "-"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert "small_conv: 24 of 48 units go" in captured.err
    assert main(["shrink", str(bare), "--output", "out"]) == 0
    values = summary(Path("out"))
    assert (told["preview"], values["preview"]) == (True, False)
    for name in ("removed", "units", "held", "stays"):
        assert told[name] == values[name]
    assert told["measures"][:2] == values["measures"][:2]  # pyright: ignore


def test_a_preview_before_the_training(bare: Path, capsys: Captured) -> None:
    bare.write_text(RECIPE)
    assert main(["shrink", str(bare), "--preview"]) == 0
    assert "The network is not trained yet" in capsys.readouterr().out
    assert not Path("runs").exists()


def test_what_is_not_exact_is_named(bare: Path, capsys: Captured) -> None:
    """A LayerNorm counts the units of the layer before it: named before and after, with the difference."""
    arguments = ["shrink", str(bare), "--set", f"model={OWN}:normal", "--set", "inputs=['4,6']", "--output", "out"]
    assert main([*arguments, "--preview"]) == 0
    told = capsys.readouterr().out.splitlines()
    where = told.index("Perhaps not the same as masking, which only a comparison can tell:")
    assert told[where + 1].startswith("  0: ")
    assert "Nothing was changed or written." in told
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"Not the same as masking:\n{told[where + 1]}\n" in out
    assert "because for 1 group removing is not masking." in out
    values = summary(Path("out"))
    assert (list(values["inexact"]), values["exact"]) == (["0"], False)  # pyright: ignore
    assert values["max_difference"] > 1e-6  # pyright: ignore


def test_a_preview_says_where_times_are_kept(bare: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEWOOD_CACHE", str(bare.parent / "times"))
    assert main(["shrink", str(bare), "--preview", "--set", "shrink={budget: {name: Latency, fraction: 1.0}}"]) == 0
    out = capsys.readouterr().out
    assert f"No network was changed or written; the times of its layers are kept in '{bare.parent / 'times'}'." in out
    assert "Nothing was changed" not in out
    assert any((bare.parent / "times").iterdir())


# ---------------------------------------------------------------- errors


def test_a_network_of_another_model_is_not_overwritten(bare: Path, capsys: Captured) -> None:
    assert main(["shrink", str(bare), "--output", "out"]) == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    other = ["--set", f"model={OWN}:normal", "--set", "inputs=['4,6']"]
    capsys.readouterr()
    assert main(["shrink", str(bare), *other, "--output", "out"]) == 2
    assert capsys.readouterr().err == (
        "sparsewood: Directory 'out' holds the network of another model, small_conv; this recipe's is "
        f"{OWN}:normal. Choose another directory with --output, or remove that one.\n"
    )
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert main(["shrink", str(bare), "--output", "out", "--set", "shrink.sparsity=0.25"]) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["shrink.sparsty=0.5"], "Unknown key 'sparsty'. Did you mean 'sparsity'?"),
        (["shrink.budget=MACs"], "MACs needs 'amount': a whole number or a number"),
        (["shrink.budget={name: MACs, amount: 0.5}"], "give one of them. Got sparsity=0.5 and MACs(0.5)"),
        (["shrink={budget: {name: MACs, amount: 0.001}}"], "The least that can be reached is"),
        (["shrink.recalibrate=true"], "Without data there can be no recalibrate"),
        (["shrink.criterion=WeightTimesGradient"], "no criterion WeightTimesGradient(mode='eval')"),
        (["data=digits", "data.root=here"], "Unknown parameter of digits 'root'"),
        (["data={name: mnist, root: none}"], "none"),
        (["weights=none.pt"], "weights: no file at 'none.pt'"),
        (["shrink.protect=[none]"], "'none'"),
        (["inputs=['1,3,8,8']"], "failed on the inputs (float32[1, 3, 8, 8] on cpu)"),
        ([f"model={OWN}:tokens"], "In a recipe: inputs: ['1,3,224,224'], or data"),
        ([f"model={OWN}:whole", "inputs=['1,3']"], "No unit of this network can be removed"),
        (["output=bare.yaml"], "Cannot write to directory 'bare.yaml'"),
        (["device=gpu"], "device must be"),
    ],
)
def test_errors_are_one_line_and_exit_2(bare: Path, settings: list[str], message: str, capsys: Captured) -> None:
    arguments = [part for one in settings for part in ("--set", one)]
    assert main(["shrink", str(bare), *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("sparsewood: ")
    assert message in err
    left = {path.name for path in Path("runs/bare").iterdir()} if Path("runs/bare").is_dir() else set[str]()
    assert left <= {"lock"}


@pytest.mark.parametrize("arguments", [["none.yaml"], ["bare.yaml", "--json", "/"], ["bare.yaml", "--previw"], []])
def test_errors_of_the_command(bare: Path, arguments: list[str], capsys: Captured) -> None:
    assert bare.is_file()
    assert main(["shrink", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("runs").exists()


def test_what_cannot_be_reached_is_found_out_before_the_training(
    bare: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise AssertionError("trained although the budget cannot be met")

    bare.write_text(RECIPE)
    monkeypatch.setattr("sparsewood.run.trainings.fit", none)
    assert main(["shrink", str(bare), "--set", "shrink.budget.amount=0.001", "--output", "out"]) == 2
    assert "The least that can be reached is" in capsys.readouterr().err


def test_an_error_leaves_the_network_of_before(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted while the last thing was measured: the network is whole, and nothing speaks of another."""
    assert main(["shrink", str(bare), "--output", "out"]) == 0
    before = Path("out/model.safetensors").read_bytes()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shrink_work, "compare_latency", interrupted)
        assert main(["shrink", str(bare), "--output", "out", "--set", "repeats=1", "--set", "seed=2"]) == 130
    assert Path("out/model.safetensors").read_bytes() == before
    assert summary(Path("out"))["seed"] == 1
    sw.load("out", model=sw.models.small_conv([8, 8], hidden=32))
    assert sorted(path.name for path in Path("out").iterdir()) == sorted([*FILES, "lock"])


def test_progress_without_a_total_has_no_share(capsys: Captured) -> None:
    """Shrinking alone has no steps that could be counted: what is done is shown, and for how long."""
    with progress(None, seconds=0.0) as advance:
        advance("shrink: trace", 0)
    assert capsys.readouterr().err == "0 s: shrink: trace\n"
    with progress(4, seconds=0.0) as advance:
        advance("fine-tuning", 2)
    assert capsys.readouterr().err.startswith(" 50 %")


@pytest.mark.parametrize(("total", "columns"), [(None, 4), (4, 7)])
def test_the_bar_without_a_total_shows_its_clock_only(
    total: int | None, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    real = rich.progress.Progress.__init__

    def counting(self: rich.progress.Progress, *parts: Any, **options: Any) -> None:
        shown.append(len(parts))
        real(self, *parts, **options)

    monkeypatch.setattr(rich.progress.Progress, "__init__", counting)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress(total) as advance:
        advance("shrink: trace", 0)
    assert shown == [columns]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from sparsewood.run.cli import main\n"
        "try:\n    main(['shrink', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    for option in ("--preview", "--set", "--data-dir", "--output", "--json", "--quiet"):
        assert option in found.stdout
