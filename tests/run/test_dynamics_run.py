"""Rules of masks that change while training, carried out by a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sparsewood.errors import SparsewoodError
from sparsewood.report.rows import read_csv
from sparsewood.run import trainings
from sparsewood.run.cli import main
from sparsewood.run.command import run_recipe
from sparsewood.run.directory import Stage
from sparsewood.run.recipe import Recipe, cell_hash, load_recipe
from sparsewood.state import TrainingState
from sparsewood.types import Masks

RECIPE = """
name: changing
data: digits
model: {name: small_conv, widths: [4], hidden: 16, size: 8}
training: {epochs: 3, batch_size: 128, optimizer: {name: SGD, lr: 0.1, momentum: 0.9}}
variants:
  splicing: {dynamics: {name: Splicing, sparsity: 0.8, every: 4}}
  feedback: {dynamics: {name: StraightThrough, curve: {name: Cubic, final: 0.7}, every: 3}}
  movement: {dynamics: {name: Movement, curve: {name: Linear, final: 0.6}, every: 3}}
  rigl: {dynamics: {name: RigL, sparsity: 0.9, every: 5}, pruning: {recovery: {name: Rewind, step: 0}}}
  evolving:
    dynamics: {name: SET, sparsity: 0.5, every: 5}
    pruning: {recovery: {name: Rewind, step: 0}, protect_classifier: false, exclude: [features*]}
"""
SPARSITY = {"splicing": 0.8, "feedback": 0.7, "movement": 0.6, "rigl": 0.9, "evolving": 0.5}


class Stop(Exception):
    """The process ends here."""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recipe that nothing disturbed."""
    path = tmp_path_factory.mktemp("finished") / "recipe.yaml"
    path.write_text(RECIPE)
    return run_recipe(path, [f"output={path.parent}"], quiet=True)


def test_the_masks_are_those_that_were_asked_for_and_hold(finished: Path) -> None:
    """[7.1] [004-36] To a weight, in the parameters that were chosen."""
    for name, share in SPARSITY.items():
        stage = finished / "seed-1" / name / "training"
        masks = Masks.load(stage / "masks.safetensors")
        assert masks.removed == round(share * masks.total), name
        names = {"hidden.weight", "classifier.weight"} if name == "evolving" else {"features.0.weight", "hidden.weight"}
        assert set(masks) == names
        weights = TrainingState.load(stage / "final.safetensors").part("model")
        assert all(not weights[key][~mask].any() for key, mask in masks.items())
        assert all(weights[key][mask].any() for key, mask in masks.items())


def test_every_variant_has_its_row(finished: Path) -> None:
    rows = {row.strategy: row for row in read_csv(finished / "results.csv") if row.compression > 1}
    assert rows.keys() == SPARSITY.keys()
    notes = json.loads((finished / "seed-1/rigl/training/done.json").read_text())
    assert notes["amount"].startswith("RigL(every=5")


def test_sparse_from_the_first_step(finished: Path) -> None:
    """RigL's networks never see more than their share; splicing begins dense."""
    first = {name: (finished / "seed-1" / name / "training/logs.csv").read_text().splitlines() for name in SPARSITY}
    at = {name: lines[0].split(",").index("sparsity") for name, lines in first.items()}
    assert float(first["rigl"][1].split(",")[at["rigl"]]) == pytest.approx(0.9, abs=1e-3)
    assert float(first["splicing"][1].split(",")[at["splicing"]]) < 0.8


@contextmanager
def stopping_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    calls = 0
    original = Stage.save_checkpoint

    def counted(self: Stage, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        result = original(self, *args)
        if calls == number:
            raise Stop
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "save_checkpoint", counted)
        yield


def test_a_run_that_was_cut_gives_the_same_numbers(
    recipe: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[000-10] Bit for bit, also of weights that learn out of sight and of what a rule remembers."""
    cuts = 0
    while cuts < 60:
        try:
            with stopping_at(1, monkeypatch):
                root = run_recipe(recipe, quiet=True)
            break
        except Stop:
            cuts += 1
    assert cuts >= 2 * len(SPARSITY)  # after each epoch but the last of each training
    for name in SPARSITY:
        one, other = (where / "seed-1" / name / "training" for where in (root, finished))
        assert (
            json.loads((one / "done.json").read_text())["fingerprint"]
            == (json.loads((other / "done.json").read_text())["fingerprint"])
        ), name
        assert Masks.load(one / "masks.safetensors") == Masks.load(other / "masks.safetensors")
    assert (root / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("variants.rigl.pruning.criterion=LAMP", r"'rigl': dynamics decide .* leave out pruning\.criterion"),
        ("variants.rigl.pruning.start=3", r"leave out pruning\.start"),
        ("variants.rigl.independent=true", "leave out independent"),
        ("variants.rigl.masks_from=splicing", "leave out masks_from"),
        ("variants.rigl.dynamics.start=0.74", "'rigl': .*no update falls into a training of 3 steps"),
        ("variants.rigl.pruning.include=[nothing]", "'rigl': .*'nothing'"),
        ("variants.rigl.dynamics.sparsity=1.5", "1.5"),
        ("variants.feedback.dynamics.curve.final=0.9999", "'feedback': .*sparsity 0.99.* at update .* must stay"),
        ("variants.feedback.dynamics.scope={name: PerLayer, allocation: LAMP}", "scope must be"),
        ("variants.splicing.dynamics={name: Splicing, s: {feature.0: 1.0, '*': 0.5}}", "'splicing': .*'feature.0'"),
        ("variants.splicing.dynamics={name: Splicing, s: {features: 1.0}}", "'splicing': .*none of 'features' means"),
        ("variants.rigl.pruning.recovery={name: Scratch, same: flops}", "'rigl': Scratch"),
    ],
)
def test_mistakes_are_found_before_training(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, setting: str, message: str
) -> None:
    monkeypatch.setattr(trainings, "fit", None)
    short = ["training.epochs=1", "training.batch_size=400"] if "start=0.74" in setting else []
    with pytest.raises(SparsewoodError, match=message):
        run_recipe(recipe, [*short, setting], quiet=True)


FLAT = """
from torch import nn


def flat() -> nn.Module:
    first = nn.Linear(64, 8)
    nn.init.constant_(first.weight, 0.01)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(8, 10))
"""


@pytest.mark.parametrize(
    ("recovery", "expected", "message"),
    [("FineTune", Stop, None), ("{name: Rewind, step: 0}", SparsewoodError, r"'1\.weight' are all of one size")],
)
def test_first_weights_that_are_alike_matter_only_where_splicing_begins_with_them(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, recovery: str, expected: type[Exception], message: str | None
) -> None:
    def reached(*_: Any, **__: Any) -> None:
        raise Stop

    monkeypatch.setattr(trainings, "fit", reached)
    (recipe.parent / "flat_network.py").write_text(FLAT)
    pruning = f"{{dynamics: {{name: Splicing, sparsity: 0.5}}, pruning: {{recovery: {recovery}}}}}"
    with pytest.raises(expected, match=message):
        run_recipe(recipe, ["model=flat_network:flat", f"variants={{alone: {pruning}}}"], quiet=True)


def test_a_dry_run_updates_masks(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe), "--dry-run", "--quiet"]) == 0
    assert "DRY RUN" in capsys.readouterr().out
    (root,) = Path("runs").iterdir()
    for name, share in SPARSITY.items():
        masks = Masks.load(root / "seed-1" / name / "training/masks.safetensors")
        assert masks.removed == round(share * masks.total)


def test_the_plan_names_the_rule(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe), "--plan"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "rigl: RigL(every=5" in shown
    assert "splicing: Splicing(every=4" in shown


def test_dynamics_are_part_of_a_cells_hash(recipe: Path) -> None:
    def hashed(found: Recipe) -> str:
        return cell_hash(found, found.variant("rigl"), 1)

    other = load_recipe(recipe, ["variants.rigl.dynamics.every=6"])
    assert hashed(load_recipe(recipe)) != hashed(other)
    assert hashed(load_recipe(recipe)) == hashed(load_recipe(recipe, ["variants.rigl.dynamics.drop=0.3"]))


def test_a_dry_run_of_events_that_count_steps(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        """
name: rising
data: digits
model: {name: small_conv, widths: [4], hidden: 16, size: 8}
training: {epochs: 3, batch_size: 128}
pruning:
  schedule: {name: RNNRamp, q: 0.05, start: 9, ramp: 12, end: 18, every: 3}
  unit: step
  rounds: 4
  start: 9
  every: 3
"""
    )
    root = run_recipe(path, [f"output={tmp_path}"], dry_run=True, quiet=True)
    assert [row.strategy for row in read_csv(root / "results.csv") if row.compression > 1] == ["pruned"]
