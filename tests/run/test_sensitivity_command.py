"""`sparsewood sensitivity`: end to end on real data. Requirement 004-33."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import pytest

import sparsewood as sw
from sparsewood.criteria import LpNorm
from sparsewood.data import digits
from sparsewood.data.loader import Loader
from sparsewood.data.split import HeldOut
from sparsewood.errors import SparsewoodError
from sparsewood.report.sensitivity import Sensitivity
from sparsewood.run import experiment
from sparsewood.run.cli import main
from sparsewood.run.components import RecipeError
from sparsewood.run.sensitivity_command import Analysis, analyse_recipe, read_analysis
from sparsewood.run.weights import load_weights

SHIPPED = Path(__file__).parents[2] / "recipes"
SHORT = ["training.epochs=2", "model.widths=[4, 4]"]
QUICK = ["amounts=[0.5]", "granularities=[Filter]"]

OWN = "own_data_to_analyse"

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe that comes with the project, copied into the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(SHIPPED / "digits_small_conv.yaml", tmp_path))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_what_is_written_is_the_dense_network_on_validation_data(
    recipe: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[004-33] Table, CSV and picture; test data are not opened, and the row at 0 is the dense network's."""
    monkeypatch.setattr(HeldOut, "open", lambda _: pytest.fail("the test part was opened"))
    settings = [word for one in SHORT for word in ("--set", one)]
    assert main(["sensitivity", str(recipe), *settings, "--amounts", "0.25,0.5", "--quiet"]) == 0
    (run,) = Path("runs").iterdir()
    target = run / "sensitivity"
    assert sorted(path.name for path in target.iterdir()) == [
        f"sensitivity.{ending}" for ending in ("csv", "png", "txt")
    ]
    out, found = capsys.readouterr().out, Sensitivity.from_csv(target / "sensitivity.csv")
    assert (target / "sensitivity.txt").read_text().strip() in out
    assert "digits, small_conv: validation top1 [%] with one layer pruned; whole network" in out
    assert "How much each layer can lose alone while top1 drops by at most 0.01" in out
    model = sw.models.small_conv([4, 4])
    load_weights(model, run / "seed-1" / "dense" / "final.safetensors")
    whole = sw.evaluate(model, Loader(digits().validation, 1000))
    assert (found.baseline.top1, found.baseline.samples) == (whole.top[1], whole.samples)
    assert found.baseline.loss == pytest.approx(whole.loss, rel=1e-5)
    assert {row.granularity for row in found.rows} == {"Element", "Filter", "Channel"}


def test_nothing_is_done_twice(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[004-33] A second command neither trains nor prunes again what is there, and adds what is new."""
    target = analyse_recipe(recipe, SHORT, settings=QUICK, quiet=True)
    before = rows(target / "sensitivity.csv")
    monkeypatch.setattr(experiment, "train", lambda *_, **__: pytest.fail("it was trained again"))
    more = ["amounts=[0.25, 0.5]", "granularities=[Filter, Coupled]", 'layers=["features*"]']
    assert analyse_recipe(recipe, SHORT, settings=more, quiet=True) == target
    after = rows(target / "sensitivity.csv")
    assert after[: len(before)] == before
    new = {(row["granularity"], row["sparsity"]) for row in after[len(before) :]}
    assert new == {("Filter", "0.25"), ("Coupled", "0.0"), ("Coupled", "0.25"), ("Coupled", "0.5")}
    with pytest.raises(SparsewoodError, match="another criterion"):
        analyse_recipe(recipe, SHORT, settings=[*QUICK, "criterion=Random"], quiet=True)


def test_criteria_of_all_kinds_and_a_directory_of_ones_own(recipe: Path) -> None:
    """[004-33] Gradients of training data, and units of the structure."""
    criteria = {"WeightTimesGradient": "Filter", "GeometricMedian": "Coupled", "{name: LpNorm, p: 1}": "Element"}
    for number, (criterion, units) in enumerate(criteria.items()):
        settings = [f"criterion={criterion}", f"granularities=[{units}]", "amounts=[0.5]"]
        target = analyse_recipe(recipe, SHORT, settings=settings, output=Path(f"own-{number}"), quiet=True)
        assert {row["granularity"] for row in rows(target / "sensitivity.csv")} == {units}


def test_recipes_of_shrink_have_a_dense_network_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[004-33] It is the one that `sparsewood shrink` trains."""
    monkeypatch.chdir(tmp_path)
    path = Path(shutil.copy(SHIPPED / "digits_small_conv_shrink.yaml", tmp_path))
    short = ["training.epochs=1", "model.widths=[4, 4]"]
    target = analyse_recipe(path, short, settings=QUICK, quiet=True)
    assert target == Path("runs/digits_small_conv_shrink/sensitivity")
    (dense,) = target.parent.glob("dense-*/seed-1/dense/done.json")
    assert dense.is_file()
    assert len(rows(target / "sensitivity.csv")) == 2 * 3


def test_a_recipe_without_data_has_nothing_to_evaluate_on(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "bare.yaml"
    path.write_text("{name: bare, model: small_conv, shrink: {sparsity: 0.5}}")
    assert main(["sensitivity", str(path)]) == 2
    assert "has no data to evaluate on" in capsys.readouterr().err


def test_without_validation_data_nothing_is_trained(recipe: Path) -> None:
    Path(f"{OWN}.py").write_text(
        "from dataclasses import replace\n"
        "import torch\n"
        "from sparsewood.data import digits\n"
        "def unchecked():\n"
        "    split, none = digits(), torch.arange(0)\n"
        "    indices = {**split.indices, 'validation': none}\n"
        "    return replace(split, validation=split.validation.subset(none), indices=indices)\n"
    )
    try:
        with pytest.raises(SparsewoodError, match="no validation part"):
            analyse_recipe(recipe, [*SHORT, f"data={OWN}:unchecked"], settings=QUICK, quiet=True)
    finally:
        sys.modules.pop(OWN, None)
    assert not list(Path("runs").glob("*/seed-*"))


def test_settings_are_checked_as_those_of_recipes_are() -> None:
    found = read_analysis(["criterion={name: LpNorm, p: 1}", "granularities=[{name: Block, sizes: [2, 2]}]"])
    assert found == Analysis(criterion=LpNorm(1), granularities=(sw.Block((2, 2)),))
    with pytest.raises(RecipeError) as caught:
        read_analysis(["amounts=[0.5, 1.5]", "granularities=[Fliter]", "criterion=Magnitud"])
    told = "\n".join(caught.value.problems)
    assert "1.5" in told
    assert "Did you mean 'Filter'" in told
    assert "Did you mean 'Magnitude'" in told
    with pytest.raises(RecipeError, match="max_drop"):
        read_analysis(["max_drop=5"])  # a share, not points
