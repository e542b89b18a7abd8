"""`sparsewood inspect --units`: counts, images in the numbers of the data set, files, weights of runs, and errors."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import sparsewood as sw
from sparsewood.run.cli import main
from sparsewood.run.inspect_units_command import inspect_units
from sparsewood.state import capture

Captured = pytest.CaptureFixture[str]
OWN = "own_units_to_inspect"
CODE = """
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset
import sparsewood as sw

class Net(nn.Module):
    # A neuron for one pixel each, of which two do not change; then one that is dead, one that is constant, and one
    # that is saturated.
    def __init__(self):
        super().__init__()
        self.flat, self.first, self.relu, self.last = nn.Flatten(), nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 2)
        with torch.no_grad():
            self.first.weight.zero_()
            self.first.weight[:4].copy_(torch.eye(4))
            self.first.weight[6, 0] = 0.01
            self.first.bias.copy_(torch.tensor([0.0, 0, 0, 0, -1, 2, 1]))

    def forward(self, x):
        return self.last(self.relu(self.first(self.flat(x))))

def net():
    return Net()

def tanh():
    net = Net()
    net.relu = nn.Tanh()
    return net

def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 2), nn.ReLU(), nn.Linear(2, 2))

def pixels():
    # Twelve images of four pixels: of the training part, which are numbers 4 to 11, one has pixel 0, one pixel 1,
    # and all have pixels 2 and 3. Test images, the first two, would excite everything more.
    images = torch.zeros(12, 1, 2, 2)
    images[:4] = 1.0
    images[4:, 0, 1] = torch.tensor([0.5, 1.0])
    images[9, 0, 0, 0] = images[6, 0, 0, 1] = 1.0
    data = TensorDataset(images, torch.arange(12) % 3)
    return Subset(data, range(4, 12)), Subset(data, [2, 3]), Subset(data, [0, 1])

def nothing():
    return 3
"""
UNITS = ["--units", "--data", f"{OWN}:pixels"]


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / f"{OWN}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop(OWN, None)


def lines_of(out: str, name: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines() if line.startswith(name)]


def test_counts_and_images(capsys: Captured) -> None:
    """Dead, constant, saturated and memorising units, and the image that excites each, by the number in the data."""
    assert main(["inspect", f"{OWN}:net", *UNITS]) == 0
    out = capsys.readouterr().out
    counts, *units = lines_of(out, "first")
    assert counts == ["first", "7", "1", "3", "1", "2", "0.002"]
    assert units == [
        ["first", "0", "1.000", "9", "0"],
        ["first", "1", "1.000", "6", "0"],
        ["first", "6", "0.005", "9", "0"],
    ]
    assert "8 of 8 training images of own_units_to_inspect:pixels, not augmented" in out
    assert "Weights: new ones, not trained" in out


def test_numbers_are_those_of_the_whole_data_set_and_never_of_test_images() -> None:
    report = inspect_units("small_conv", {"data": "digits", "images": 50})
    split = sw.data.digits()
    train = set(split.indices["train"].tolist())
    labels = {int(i): int(label) for i, label in zip(split.indices["train"], split.train.labels, strict=True)}
    alive = [row for row in report.rows if row.image is not None]
    assert len(report.images) == 50
    assert alive
    assert all(row.image in train and row.label == str(labels[row.image]) for row in alive)
    assert report.split.test.openings == 0
    image = alive[0].image
    assert image is not None
    place = split.indices["train"].tolist().index(image)
    assert torch.equal(report.pixels(image), split.train.pixels(torch.tensor([place]))[0])


def test_the_same_numbers_every_time_and_as_measured_by_hand() -> None:
    options = {"data": "digits", "images": 60, "augment": "{name: CropFlip, padding: 1}", "augmentations": 3}
    first, second = (inspect_units("small_conv", options, ["batch_norm=true"]) for _ in range(2))
    assert first.rows == second.rows
    cut = inspect_units("small_conv", {**options, "batch_size": 1000}, ["batch_norm=true"])
    assert [row.state for row in cut.rows] == [row.state for row in first.rows]
    plain = inspect_units("small_conv", {"data": "digits", "images": 60}, ["batch_norm=true"])
    assert [row.unitmem for row in plain.rows] != [row.unitmem for row in first.rows], "augmented images were seen"
    model = sw.models.small_conv(batch_norm=True, generator=sw.seeds.generator_for(0, "weights"))
    found = sw.unit_memorization(model, plain.images)
    assert [row.unitmem for row in plain.rows] == [score for of in found.scores.values() for score in of.tolist()]


def test_files(capsys: Captured) -> None:
    pytest.importorskip("matplotlib")
    files = ["--csv", "out/u.csv", "--json", "out/u.json", "--png", "out/u.png"]
    assert main(["inspect", f"{OWN}:net", *UNITS, *files, "--threshold", "0.001", "--top", "1"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-4:] == ["Written:", "  out/u.csv", "  out/u.png", "  out/u.json"]
    assert len(lines_of(out, "first")) == 2
    with Path("out/u.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == ["", "", "constant", "constant", "dead", "constant", "saturated"]
    assert rows[0] == {
        "layer": "first", "unit": "0", "state": "", "zeros": "0.875", "unitmem": "1.0", "image": "9", "label": "0",
    }  # fmt: skip
    assert rows[4]["image"] == ""
    found = json.loads(Path("out/u.json").read_text())
    assert (found["format"], found["version"], found["data"]["images"]) == ("sparsewood units", 1, list(range(4, 12)))
    assert found["layers"][0]["memorizing"] == 3
    assert [unit["image"] for unit in found["units"]][:2] == [9, 6]
    assert Path("out/u.png").read_bytes().startswith(b"\x89PNG")


def test_the_title_says_what_was_done_to_images(capsys: Captured) -> None:
    augment = ["--augment", "{name: CropFlip, padding: 1}", "--augmentations", "2", "--images", "5"]
    assert main(["inspect", f"{OWN}:net", *UNITS, *augment]) == 0
    assert "on 5 of 8 training images" in (out := capsys.readouterr().out)
    assert "UnitMem over 2 augmentations by CropFlip(padding=1)" in out


def test_json_on_standard_output_is_alone_there(capsys: Captured) -> None:
    assert main(["inspect", f"{OWN}:net", *UNITS, "--json", "-", "--csv", "u.csv"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["units"]) == 7
    assert "u.csv" in captured.err
    assert "median UnitMem" in captured.err


def test_layers_without_a_relu_are_said(capsys: Captured) -> None:
    assert main(["inspect", f"{OWN}:tanh", *UNITS, "--json", "u.json"]) == 0
    out = capsys.readouterr().out
    assert lines_of(out, "first") == [["first", "7", "0", "4", "1", "-", "-"]]
    assert "first: activations below 0" in out
    assert "measured without" not in out, "it was not measured"
    assert json.loads(Path("u.json").read_text())["units"][0]["unitmem"] is None
    assert main(["inspect", f"{OWN}:tanh", *UNITS, "--negative", "absolute"]) == 0
    assert lines_of(capsys.readouterr().out, "first")[0][5] == "2"


def test_layers_beyond_the_most_are_counted(capsys: Captured) -> None:
    assert main(["inspect", "small_conv", "--units", "--data", "digits", "--images", "9", "--groups", "1"]) == 0
    out = capsys.readouterr().out
    assert "and 2 more layers with 160 units; all of them: --groups 3" in out
    assert not lines_of(out, "hidden")


def test_weights_of_files_stages_runs_and_shrunk_networks(tmp_path: Path) -> None:
    """What is looked at is the network that is named: here one of which a unit was made dead."""
    model = sw.models.small_conv(generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.features[0].weight[5] = model.features[0].bias[5] = 0.0
    torch.save(model.state_dict(), "w.pt")
    stage = tmp_path / "run" / "seed-1" / "dense"
    stage.mkdir(parents=True)
    capture(model).save(stage / "final.safetensors")
    found = [
        inspect_units("small_conv", {"data": "digits", "images": 20, "weights": Path(path)}).rows
        for path in ("w.pt", "run", "run/seed-1/dense", "run/seed-1/dense/final.safetensors")
    ]
    assert all(rows == found[0] for rows in found)
    assert [row.unit for row in found[0] if row.layer == "features.0" and row.state == "dead"] == [5]
    shrunk = sw.shrink(model, torch.zeros(1, 1, 8, 8), 0.25)
    sw.save(shrunk, "small")
    rows = inspect_units("small_conv", {"data": "digits", "images": 20, "weights": Path("small")}).rows
    assert len(rows) < len(found[0])


def test_several_networks_of_a_run_are_listed() -> None:
    for name in ("dense", "pruned"):
        Path("run", name).mkdir(parents=True)
        Path("run", name, "final.safetensors").touch()
    with pytest.raises(sw.SparsewoodError, match=r"networks of 2 finished stages. Name one: 'run/dense', 'run/pruned'"):
        inspect_units("small_conv", {"data": "digits", "weights": Path("run")})


def test_what_does_not_go_together_is_found_out_at_once() -> None:
    code = (
        "import sys\n"
        "from sparsewood.run.cli import main\n"
        "main(['inspect', 'small_conv', '--data', 'digits'])\n"
        "heavy = {'torch', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small_conv", "--units"], "--units needs the data that the network is trained on: --data digits"),
        (["small_conv", "--units", "--data", "digts"], "--data: Unknown data set 'digts'. Did you mean 'digits'?"),
        (["small_conv", "--units", "--data", "{name: digits, size: 3}"], "Unknown parameter of digits 'size'"),
        (["small_conv", "--units", "--data", f"{OWN}:nothing"], "must return a Split"),
        (["small_conv", "--units", "--data", f"{OWN}:none"], "none"),
        (["small_conv", "--units", "--data", "digits", "--data-dir", "x"], "data.root"),
        (["small_conv", *UNITS, "--augment", "CropFlop"], "Unknown augmentation 'CropFlop'. Did you mean 'CropFlip'?"),
        (["small_conv", *UNITS, "--images", "1"], "--images: must be a whole number >= 2. Got 1"),
        (["small_conv", *UNITS, "--threshold", "2"], "--threshold: must be"),
        (["small_conv", *UNITS, "--top", "0"], "--top must be a whole number >= 1. Got 0"),
        (["small_conv", *UNITS, "--weights", "none.pt"], "weights: no file at 'none.pt'"),
        (["small_conv", *UNITS, "--weights", "."], "weights: '.' holds no network"),
        (["small_conv", *UNITS, "--csv", "."], "Cannot write file '.'"),
        (["small_conv", *UNITS, "--svg", "s.svg", "--explain", "0"], "--units does not go with --explain, --svg"),
        (["small_conv", "--data", "digits", "--top", "2"], "Without --units there is no --data, --top"),
        (["no_model", *UNITS], "Unknown model 'no_model'"),
        (
            [f"{OWN}:wide", *UNITS],
            "does not run on an image of own_units_to_inspect:pixels, of shape (1, 2, 2): The forward of Sequential",
        ),
    ],
)
def test_errors_have_one_line_and_exit_2(arguments: list[str], message: str, capsys: Captured) -> None:
    assert main(["inspect", *arguments]) == 2
    captured = capsys.readouterr()
    assert message.lower() in captured.err.lower()
    assert len(captured.err.strip().splitlines()) == 1
