"""Recipes carried out: stages, resume, faults, results."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsewood.data import digits
from sparsewood.data.split import HeldOut
from sparsewood.errors import FileFormatError, OutputError, SparsewoodError
from sparsewood.measurement import evaluate
from sparsewood.models import small_conv
from sparsewood.report.rows import Result, read_csv
from sparsewood.run import command, trainings
from sparsewood.run.begun import require_same_inputs
from sparsewood.run.bench import load_split
from sparsewood.run.calls import told
from sparsewood.run.cli import main
from sparsewood.run.command import run_recipe
from sparsewood.run.directory import Stage, locked
from sparsewood.run.recipe import Recipe, load_recipe
from sparsewood.state import TrainingState, restore
from sparsewood.train import SGD, OneCycle, Training
from sparsewood.types import Masks

RECIPE = """
name: small
data: digits
model: {name: small_conv, widths: [4], hidden: 16, size: 8}
training: {epochs: 3, batch_size: 128, optimizer: {name: SGD, lr: 0.1}}
pruning: {schedule: {name: Geometric, rate: 0.5}, rounds: 2, recovery: {name: Rewind, step: 0}}
variants:
  anew: {masks_from: ticket, pruning: {recovery: Reinitialize}}
  ticket: {}
  late: {pruning: {recovery: {name: Rewind, step: 10}}}
  elsewhere: {masks_from: ticket, shuffled: true}
  tuned: {pruning: {recovery: FineTune, criterion: WeightTimesGradient}, retraining: {epochs: 1}}
  shots: {independent: true, only: [2], pruning: {schedule: {name: Levels, amounts: [0.5, 0.9]}}}
  gradual: {pruning: {schedule: {name: Cubic, final: 0.9}, rounds: 4, unit: step, every: 4, recovery: FineTune}}
  soft:
    pruning: {schedule: {name: Soft, schedule: {name: OneShot, amount: 0.5}}, rounds: 2, unit: epoch, granularity: Row}
"""


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


def fingerprints(root: Path) -> dict[str, str]:
    marks = sorted(root.glob("seed-*/**/done.json"))
    return {str(mark.relative_to(root)): json.loads(mark.read_text())["fingerprint"] for mark in marks}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


# ---------------------------------------------------------------- what comes out


def test_results_are_in_shrinkbench_layout(finished: Path) -> None:
    """[8.2] 36 + 4,096 weights are pruned, of 4,322 parameters."""
    results = read_csv(finished / "results.csv")
    assert [(r.strategy, r.compression) for r in results if r.strategy == "ticket"] == [
        ("ticket", 1.0),
        ("ticket", 4322 / (4322 - 2066)),
        ("ticket", 4322 / (4322 - 3099)),
    ]
    for result in results:
        assert result.dataset == "digits"
        assert result.real_compression == result.size / result.size_nz
        assert result.speedup == result.flops / result.flops_nz
        assert 0 <= result.post_acc1 <= result.post_acc5 <= 1
        assert (finished / result.path / "final.safetensors").is_file()
        assert (finished / result.path / "logs.csv").is_file()
    header = (finished / "seed-1/dense/logs.csv").read_text().splitlines()[0]
    assert header.startswith("epoch,timestamp,train_loss,train_acc1,train_acc5,val_loss,val_acc1,val_acc5")
    params = json.loads((finished / "params.json").read_text())
    assert params["hash"][:12] in finished.name
    assert params["versions"]["torch"] == str(torch.__version__)
    assert (finished / "curve.png").stat().st_size > 1000


def test_achieved_sparsity_and_gap(finished: Path) -> None:
    """[000-15] [000-05] [7.20] What is reported is what the masks and the weights are."""
    rows = table(finished / "pruning_results.csv")
    tickets = [row for row in rows if row["strategy"] == "ticket"]
    assert [round(float(row["sparsity"]), 3) for row in tickets] == [0.0, 0.5, 0.75]
    for row in rows:
        gap = float(row["train_acc"]) - float(row["test_acc"])
        assert float(row["generalization_gap"]) == gap
    for row in table(finished / "masks_summary.csv"):
        if row["strategy"] == "ticket" and row["round"] == "2" and row["parameter"] == "hidden.weight":
            weights = TrainingState.load(finished / "seed-1/ticket/round-02/final.safetensors").part("model")
            assert int(row["kept"]) == int(weights["hidden.weight"].count_nonzero())


def test_masks_hold_in_what_was_saved(finished: Path) -> None:
    """[7.1] [7.8] Also through the epoch that was chosen, and through the file."""
    found = sorted(finished.glob("seed-1/*/*/masks.safetensors"))
    assert len(found) == 2 + 2 + 2 + 2 + 2 + 1 + 1 + 1
    for path in found:
        masks = Masks.load(path)
        weights = TrainingState.load(path.parent / "final.safetensors").part("model")
        assert all(not weights[name][~mask].any() for name, mask in masks.items())
    assert Masks.load(finished / "seed-1/gradual/training/masks.safetensors").sparsity == pytest.approx(0.9, abs=1e-3)
    assert Masks.load(finished / "seed-1/shots/round-02/masks.safetensors").sparsity == pytest.approx(0.9, abs=1e-3)


def test_masks_from_another_variant(finished: Path) -> None:
    for number in ("round-01", "round-02"):
        ticket, anew = (
            Masks.load(finished / f"seed-1/{name}/{number}/masks.safetensors") for name in ("ticket", "anew")
        )
        assert ticket == anew


def test_shuffled_masks_keep_as_many_weights_in_each_layer(finished: Path) -> None:
    """[004-12] [8.3] The control that keeps a method's proportions and nothing else."""
    ticket, other = (Masks.load(finished / f"seed-1/{n}/round-02/masks.safetensors") for n in ("ticket", "elsewhere"))
    assert ticket != other
    assert {name: int(mask.count_nonzero()) for name, mask in ticket.items()} == {
        name: int(mask.count_nonzero()) for name, mask in other.items()
    }


def test_rewound_training_begins_with_the_first_weights(finished: Path) -> None:
    """[004-11] Snapshots are of the first dense training, also in the second round."""
    start = TrainingState.load(finished / "seed-1/dense/snapshot-0.safetensors")
    late = TrainingState.load(finished / "seed-1/dense/snapshot-10.safetensors")
    assert (start.step, late.step) == (0, 10)
    done = json.loads((finished / "seed-1/late/round-02/done.json").read_text())
    assert done["rewound_to"] == 10
    # Three epochs of 9 steps; the first is over when the rewound training begins, at step 10.
    assert [epoch["number"] for epoch in done["epochs"]] == [2, 3]
    assert done["steps"] == 27


def test_the_control_is_trained_on_as_often_as_the_pruned(finished: Path) -> None:
    assert (finished / "seed-1/tuned/control-02/done.json").is_file()
    assert not (finished / "seed-1/ticket/control-01").exists()
    controls = [row for row in read_csv(finished / "results.csv") if row.compression == 1]
    paths = {row.strategy: row.path for row in controls}
    assert paths["ticket"] == "seed-1/dense"
    assert paths["tuned"] == "seed-1/tuned/control-02"
    assert paths["gradual"] == "seed-1/gradual/control-01"


def test_every_round_has_a_control_that_was_trained_as_often(finished: Path) -> None:
    """What one more round costs is not mixed up with what one more training brings."""
    rows = json.loads((finished / "seed-1/evaluation.json").read_text())["results"]
    tuned = {row["round"]: row for row in rows if row["result"]["strategy"] == "tuned"}
    split, model = digits(), small_conv((4,), hidden=16)
    reached = []
    for name in ("control-01", "control-02"):
        restore(TrainingState.load(finished / "seed-1/tuned" / name / "final.safetensors"), model)
        reached.append(evaluate(model, [split.test.open()[range(359)]], topk=(1,)).top[1])
    assert [tuned[number]["control_acc1"] for number in (1, 2, 0)] == [reached[0], reached[1], reached[1]]
    assert tuned[0]["result"]["post_acc1"] == reached[1]
    dense = next(row for row in rows if row["result"]["strategy"] == "ticket" and row["round"] == 0)
    assert {row["control_acc1"] for row in rows if row["result"]["strategy"] in ("ticket", "late")} == {
        dense["result"]["post_acc1"]
    }


def test_the_test_part_is_opened_once_when_all_is_trained(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[000-11] [7.4]"""
    order: list[str] = []
    opening, fitting = HeldOut.open, trainings.fit

    def opened(self: HeldOut) -> Any:
        order.append("test")
        return opening(self)

    def fitted(*args: Any, **options: Any) -> Any:
        order.append("training")
        return fitting(*args, **options)

    monkeypatch.setattr(HeldOut, "open", opened)
    monkeypatch.setattr(trainings, "fit", fitted)
    run_recipe(recipe, quiet=True)
    assert order == ["training"] * 17 + ["test"]


# ---------------------------------------------------------------- cut and gone on


def test_what_is_finished_is_not_done_again(recipe: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = run_recipe(recipe, quiet=True)
    assert fingerprints(root) == fingerprints(finished)
    written = (root / "results.csv").read_bytes()
    monkeypatch.setattr(trainings, "fit", None)
    assert run_recipe(recipe, quiet=True) == root
    assert (root / "results.csv").read_bytes() == written


class Stop(Exception):
    """What stops a run in these tests."""


@contextmanager
def stopping_at(number: int, monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """Raise at the `number`-th call of a method of `Stage`, before (even) or after (odd) it did its work."""
    calls = 0
    original: Callable[..., Any] = getattr(Stage, name)

    def counted(self: Stage, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and number % 2 == 0:
            raise Stop
        result = original(self, *args)
        if calls == number:
            raise Stop
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Stage, name, counted)
        yield


@pytest.mark.parametrize("name", ["save_checkpoint", "finish"])
def test_a_run_that_was_cut_gives_the_same_numbers(
    recipe: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """[000-10] Bit for bit: weights, masks and every table."""
    for number in (1, 2, 3, 4, 5):
        with stopping_at(number, monkeypatch, name), pytest.raises(Stop):
            run_recipe(recipe, quiet=True)
    root = run_recipe(recipe, quiet=True)
    assert fingerprints(root) == fingerprints(finished)
    for file in ("results.csv", "pruning_results.csv", "masks_summary.csv", "metrics.json"):
        assert (root / file).read_bytes() == (finished / file).read_bytes()
    assert not list(root.glob("seed-*/**/checkpoint-*"))
    epochs = [row["epoch"] for row in table(root / "seed-1/dense/logs.csv")]
    assert epochs == ["1", "2", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_killed_at_random_moments(jobs: str) -> None:
    """[000-10]"""
    script = Path(__file__).with_name("kill_and_resume.py")
    arguments = ["--kills", "2", "--seed", jobs, "--jobs", jobs]
    ran = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False, timeout=280
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "different: nothing" in ran.stdout


# ---------------------------------------------------------------- the same run?


def test_other_data_under_the_same_recipe_are_refused(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage of one data set and a stage of another are no run."""
    module = recipe.with_name("owndata.py")
    module.write_text(
        "import os\nfrom sparsewood.data import digits\n"
        "def data():\n    return digits(validation=float(os.environ['SHARE']))\n"
    )
    only = ["data=owndata:data", "variants={one: {pruning: {schedule: {name: OneShot, amount: 0.5}, rounds: 1}}}"]
    monkeypatch.setenv("SHARE", "0.2")
    root = run_recipe(recipe, only, quiet=True)
    monkeypatch.setenv("SHARE", "0.1")
    with pytest.raises(SparsewoodError, match="was begun with other data"):
        run_recipe(recipe, only, quiet=True)
    monkeypatch.setenv("SHARE", "0.2")
    assert run_recipe(recipe, only, quiet=True) == root


def test_where_a_forward_of_ones_own_fails_is_told(recipe: Path) -> None:
    module = recipe.with_name("failing.py")
    module.write_text(
        "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 4)\n"
        "    def forward(self, x):\n        raise KeyError('mine')\n"
    )
    with pytest.raises(SparsewoodError, match=r"It says: KeyError: 'mine' \('.*failing\.py', line 6\)"):
        run_recipe(recipe, ["model=failing:Net"], quiet=True)


def test_a_place_is_ones_own_whatever_its_directory_is_called() -> None:
    with pytest.raises(KeyError) as caught:
        exec(compile("\nraise KeyError('x')", "/home/me/sparsewood/mine.py", "exec"), {})
    assert told(caught.value) == "KeyError: 'x' ('/home/me/sparsewood/mine.py', line 2)"


def test_other_code_of_ones_own_is_refused(recipe: Path) -> None:
    module = recipe.with_name("ownmodel.py")
    code = "from sparsewood.models import small_conv\ndef build():\n    return small_conv((4,), hidden=16)\n"
    module.write_text(code)
    only = ["model=ownmodel:build", "variants={one: {pruning: {schedule: {name: OneShot, amount: 0.5}, rounds: 1}}}"]
    run_recipe(recipe, only, quiet=True)
    module.write_text(code + "# changed\n")
    with pytest.raises(SparsewoodError, match="was begun with other code of its own"):
        run_recipe(recipe, only, quiet=True)


def test_what_repeats_the_training_with_trained_weights_has_a_control_trained_as_long(recipe: Path) -> None:
    """Rewinding the learning rate trains twice; going back to earlier weights does not."""
    shot = "schedule: {name: OneShot, amount: 0.5}, rounds: 1"
    rate, weights = (
        f"{{pruning: {{{shot}, recovery: {{name: {name}}}}}}}" for name in ("RewindRate", "Rewind, step: 0")
    )
    root = run_recipe(recipe, [f"variants={{rate: {rate}, weights: {weights}}}"], quiet=True)
    assert sorted(path.name for path in (root / "seed-1/rate").glob("control-*")) == ["control-01"]
    assert not list((root / "seed-1/weights").glob("control-*"))
    pruned, control = (table(root / f"seed-1/rate/{stage}/logs.csv") for stage in ("round-01", "control-01"))
    assert [row["epoch"] for row in control] == [row["epoch"] for row in pruned] == ["1", "2", "3"]
    dense = json.loads((root / "seed-1/dense/done.json").read_text())["fingerprint"]
    assert json.loads((root / "seed-1/rate/control-01/done.json").read_text())["from"] == dense


def test_an_edited_criterion_of_ones_own_is_refused_and_a_new_one_is_not(recipe: Path) -> None:
    module = recipe.with_name("owncriterion.py")
    code = (
        "from dataclasses import dataclass\nfrom sparsewood.criteria import Magnitude\n"
        "@dataclass(frozen=True)\nclass Mine(Magnitude):\n    pass\n"
    )
    module.write_text(code)
    root = recipe.parent / "begun"
    root.mkdir()

    def begin(criterion: str) -> str | None:
        one = f"variants={{one: {{pruning: {{criterion: '{criterion}', schedule: {{name: OneShot, amount: 0.5}}}}}}}}"
        known = load_recipe(recipe, [one])
        return require_same_inputs(root, known, load_split(known), torch.device("cpu"))

    begin("Magnitude")
    assert json.loads((root / "inputs.json").read_text())["parts"] == {}
    begin("owncriterion:Mine")  # a method that is added later
    assert list(json.loads((root / "inputs.json").read_text())["parts"]) == ["owncriterion"]
    begin("owncriterion:Mine")
    module.write_text(code + "# changed\n")
    begin("Magnitude")
    with pytest.raises(SparsewoodError, match=r"was begun with other code of owncriterion: what is in it"):
        begin("owncriterion:Mine")
    module.write_text(code)
    begin("owncriterion:Mine")


def test_other_conditions_are_said_and_noted(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = "variants={one: {pruning: {schedule: {name: OneShot, amount: 0.5}, rounds: 1}}}"
    root = run_recipe(recipe, [only], quiet=True)
    run_recipe(recipe, [only, "threads=2"], quiet=True)
    assert "goes on under other conditions (threads 2, before 1)" in capsys.readouterr().err
    assert [c["threads"] for c in json.loads((root / "inputs.json").read_text())["conditions"]] == [1, 2]


def test_what_was_built_on_a_stage_that_was_done_again_is_refused(recipe: Path) -> None:
    only = "variants={chain: {pruning: {rounds: 2, recovery: FineTune}}}"
    root = run_recipe(recipe, [only], quiet=True)
    path = root / "seed-1/chain/round-01/done.json"
    done = json.loads(path.read_text())
    path.write_text(json.dumps({**done, "fingerprint": "another"}))
    with pytest.raises(SparsewoodError, match=r"round-02' was made from another network"):
        run_recipe(recipe, [only], quiet=True)
    path.write_text(json.dumps(done))
    dense = root / "seed-1/dense/done.json"
    trained = dense.read_text()
    dense.write_text(json.dumps({**json.loads(trained), "fingerprint": "another"}))
    with pytest.raises(SparsewoodError, match=r"control-01' was made from another network"):
        run_recipe(recipe, [only], quiet=True)
    dense.write_text(trained)
    evaluation = root / "seed-1/evaluation.json"
    evaluated = evaluation.read_bytes()
    stale = json.loads(evaluated)
    stale["of"]["seed-1/dense"] = "another"
    evaluation.write_text(json.dumps(stale))
    run_recipe(recipe, [only], quiet=True)
    assert evaluation.read_bytes() == evaluated


def test_zeros_that_did_not_hold_leave_the_stage_unfinished(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[7.8]"""
    fitting = trainings.fit

    def disturbed(model: torch.nn.Module, *args: Any, **options: Any) -> Any:
        fitted = fitting(model, *args, **options)
        with torch.no_grad():
            model.get_parameter("hidden.weight").add_(1e-3)
        return fitted

    monkeypatch.setattr(trainings, "fit", disturbed)
    with pytest.raises(SparsewoodError, match=r"masked weights of 'hidden\.weight' are not zero after training"):
        run_recipe(recipe, ["variants={chain: {}}"], quiet=True)
    (root,) = Path("runs").iterdir()
    assert not (root / "seed-1/chain/round-01/done.json").exists()


def test_sparsity_counts_layers_whose_turn_is_to_come(recipe: Path) -> None:
    """[000-05] [7.20] Round robin: after the first event 11 of 36 + 4,096 weights are gone."""
    robin = "{name: RoundRobin, targets: [[features.0.weight, 0.3, 0.3], [hidden.weight, 0.5, 0.25]]}"
    root = run_recipe(recipe, [f"variants={{robin: {{pruning: {{schedule: {robin}, rounds: 3}}}}}}"], quiet=True)
    rows = table(root / "pruning_results.csv")
    assert [float(row["sparsity"]) for row in rows] == pytest.approx([0, 11 / 4132, 1035 / 4132, 2059 / 4132])


def test_a_training_that_stops_before_a_snapshot_says_so(recipe: Path) -> None:
    overrides = ["training.patience=1", "training.epochs=30", "training.optimizer.lr=0", "variants={late: {}}"]
    with pytest.raises(SparsewoodError, match=r"stopped after 18 steps, .* before steps \[200\]"):
        run_recipe(recipe, [*overrides, "pruning.recovery.step=200"], quiet=True)


def test_scratch_by_cost_trains_longer_with_its_schedule_stretched(recipe: Path) -> None:
    """[1810.05270] Twice as many steps where half the multiply-adds are left, and the rate falls at the same share."""
    settings = [
        "training.rate={name: MultiStep, at: [1, 2]}",
        "variants={same: {pruning: {recovery: {name: Scratch, same: flops}, rounds: 1, protect_classifier: false}}}",
    ]
    root = run_recipe(recipe, settings, quiet=True)
    done = json.loads((root / "seed-1/same/round-01/done.json").read_text())
    result = read_csv(root / "results.csv")[1]
    assert done["steps"] == pytest.approx(27 * result.speedup, abs=1)
    rates = [epoch["rate"] for epoch in done["epochs"]]
    third = done["steps"] / 3
    expected = [0.1 * 0.1 ** int((min(9 * (i + 1), done["steps"]) - 1) / third) for i in range(len(rates))]
    assert rates == pytest.approx(expected)


# ---------------------------------------------------------------- faults


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(
    recipe: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopping_at(2, monkeypatch, "save_checkpoint"), pytest.raises(Stop):
        run_recipe(recipe, quiet=True)
    (newest,) = Path("runs").glob("*/seed-1/dense/checkpoint-*")
    # The second was not written: make it, damaged.
    damaged = newest.with_name("checkpoint-000000018.safetensors")
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(FileFormatError, match="checksum differs") as raised:
        run_recipe(recipe, quiet=True)
    assert str(damaged) in str(raised.value)
    assert f"The state before it is '{newest}'" in str(raised.value)
    damaged.unlink()
    assert fingerprints(run_recipe(recipe, quiet=True)) == fingerprints(finished)


def test_a_full_disk_is_said_and_the_last_good_state_kept(
    recipe: Path, finished: Path, room_for: Callable[[int], AbstractContextManager[None]]
) -> None:
    with room_for(12_000), pytest.raises(OutputError, match="Cannot write file") as raised:
        run_recipe(recipe, quiet=True)
    assert "safetensors" in str(raised.value)
    root = run_recipe(recipe, quiet=True)
    assert fingerprints(root) == fingerprints(finished)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_to(recipe: Path) -> None:
    closed = recipe.parent / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="closed"):
        run_recipe(recipe, [f"output={closed}"], quiet=True)


def test_output_that_is_a_file(recipe: Path) -> None:
    with pytest.raises(OutputError, match=r"recipe\.yaml"):
        run_recipe(recipe, [f"output={recipe}"], quiet=True)


def test_the_second_process_on_a_directory_is_refused(recipe: Path, finished: Path) -> None:
    with locked(finished), pytest.raises(SparsewoodError, match=f"in use by process {os.getpid()} on"):
        run_recipe(recipe, [f"output={finished.parent}"], quiet=True)


def test_an_altered_mark_is_named(recipe: Path) -> None:
    root = run_recipe(recipe, quiet=True)
    (root / "seed-1/dense/done.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"done\.json' is no JSON"):
        run_recipe(recipe, quiet=True)


# ---------------------------------------------------------------- found out before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.classes=3", r"model: small_conv gives shape \(1, 3\) .* expected logits \(1, 10\)"),
        ("variants.late.pruning.recovery.step=28", "goes back to step 28 of the dense training, which has 27 steps"),
        ("variants.gradual.pruning.every=9", "'gradual': its last event is before step 27, and its training has 27"),
        ("variants.tuned.only=[2]", "'tuned': 'only' leaves out rounds that later ones build on"),
        ("variants.anew.masks_from=gradual", r"'anew': masks_from: 'gradual' has no masks of rounds \[1, 2\]"),
        ("variants.anew.masks_from=shots", r"'anew': masks_from: 'shots' has no masks of rounds \[1\]"),
        ("variants.ticket.shuffled=true", "'ticket': 'shuffled' is for masks of another variant"),
        ("variants.gradual.independent=true", "'gradual': independent and masks_from are for rounds"),
        ("train_dense=false", "goes back to step 10 of the dense training, which has 0 steps"),
        (
            "variants.ticket.pruning.recovery={name: RewindRate, step: 28}",
            "begins at step 28 of a training that has 27",
        ),
        ("variants.ticket.pruning.start=4", "'ticket': start: 4 and every: 1 mean nothing by rounds"),
        (
            "variants.ticket.pruning.schedule={name: Soft, schedule: {name: OneShot, amount: 0.5}}",
            "'ticket': Soft.* lets weights grow again while the network trains",
        ),
        ("variants.ticket.independent=true", "'ticket': Geometric.* takes a share of what is left"),
        ("variants.gradual.pruning.recovery={name: Scratch, same: flops}", "'gradual': Scratch.* Use unit: round"),
        ("variants.soft.pruning.recovery.step=10", "'soft': its training begins at step 10, in the middle of an epoch"),
        (
            "variants.gradual.pruning.recovery={name: RewindToBest, steps: [0, 18]}",
            "'gradual': its last event is before step 12, and its training has 9 steps",
        ),
        ("variants.tuned.retraining.precision=bf16-mixed", "'tuned': its training has precision 'bf16-mixed'"),
        ("training.precision=64-true", "a run keeps its weights in 32 bits"),
        ("pruning.criterion=BatchNormScale", "Variant '.*': Nothing to prune in SmallConv"),
        ("variants.ticket.pruning.granularity={name: NM, n: 2, m: 4}", "'ticket': .*amounts|'ticket': .*2:4"),
        ("model=resnet20", "model: resnet20 does not take the images of digits, which are 1x8x8 .* channels: 1"),
        ("model=os:getcwd", r"'os:getcwd' must give a torch\.nn\.Module"),
        ("weights=missing.safetensors", r"weights: no file at 'missing\.safetensors'"),
    ],
)
def test_mistakes_are_found_before_training(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, setting: str, message: str
) -> None:
    monkeypatch.setattr(trainings, "fit", None)
    with pytest.raises(SparsewoodError, match=message):
        run_recipe(recipe, [setting], quiet=True)


# ---------------------------------------------------------------- the command


def test_dry_run_takes_one_batch_through_everything(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """[002-10]"""
    assert main(["run", str(recipe), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "DRY RUN" in shown
    (root,) = Path("runs").iterdir()
    assert root.name.endswith("-dry-run")
    assert {row.strategy for row in read_csv(root / "results.csv")} == {
        "ticket",
        "late",
        "anew",
        "elsewhere",
        "tuned",
        "shots",
        "gradual",
        "soft",
    }
    done = root / "seed-1/dense/done.json"
    assert json.loads(done.read_text())["steps"] == 1
    before = done.stat().st_mtime_ns
    assert main(["run", str(recipe), "--dry-run", "--quiet"]) == 0  # again, in earnest
    assert done.stat().st_mtime_ns > before


def test_the_plan_alone(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe), "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "gradual: before each step" in shown
    assert "anew, elsewhere: the masks of ticket" in shown
    assert "ticket, late, tuned: before each round" in shown
    assert not Path("runs").exists()


def test_options_of_older_scripts(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[002-10] [001-06] They are the settings they stand for."""
    seen: list[Recipe] = []

    def noted(path: Path, overrides: list[str], **options: object) -> None:
        seen.append(load_recipe(path, overrides))
        assert options["quiet"] is True

    monkeypatch.setattr(command, "run_recipe", noted)
    options = (
        "--arch lenet5_caffe --data digits --epochs 7 --batch-size 32 --test-batch-size 50 --optimizer SGD --lr 0.01 "
        "--max-lr 0.1 --momentum 0.5 --weight-decay 1e-4 --seed 9 --output elsewhere --init-model w.pt --set threads=2"
    )
    assert main(["run", str(recipe), "--quiet", *options.split()]) == 0
    (found,) = seen
    assert found.model.name == "lenet5_caffe"
    expected = Training(
        epochs=7,
        batch_size=32,
        optimizer=SGD(lr=0.01, momentum=0.5, weight_decay=1e-4),
        rate=OneCycle(peak=10.0),
    )
    assert found.training == expected
    assert (found.seeds, found.test_batch_size, found.threads) == ((9,), 50, 2)
    assert (found.output, found.weights) == (Path("elsewhere"), Path("w.pt"))


@pytest.mark.parametrize("name", ["2026", "a: b", "#x", "null"])
def test_paths_are_paths_whatever_yaml_makes_of_them(recipe: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    seen: list[Recipe] = []
    monkeypatch.setattr(command, "run_recipe", lambda path, overrides, **_: seen.append(load_recipe(path, overrides)))
    assert main(["run", str(recipe), "--output", name, "--init-model", name]) == 0
    assert (seen[0].output, seen[0].weights) == (Path(name), Path(name))


@pytest.mark.parametrize("failure", ["ValueError('boo')", "OSError('boo')"])
def test_a_function_that_fails_is_named_with_its_line(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    recipe.with_name("broken.py").write_text(f"def build():\n    raise {failure}\n")
    assert main(["run", str(recipe), "--arch", "broken:build", "--quiet"]) == 2
    shown = capsys.readouterr().err
    assert f"broken:build failed: {failure.partition('(')[0]}: boo" in shown
    assert "broken.py', line 2" in shown


def test_a_cycle_needs_a_start_below_its_peak(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe), "--max-lr", "0.1"]) == 2
    assert "--max-lr is the peak of one cycle" in capsys.readouterr().err


def test_unknown_options_and_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
    assert main(["run", "recipe.yaml", "--epoch", "3"]) == 2
    assert "--epochs" in capsys.readouterr().err


def test_save_model(recipe: Path) -> None:
    """[002-10]"""
    from safetensors.torch import load_file

    only = ["--set", "variants={last: {pruning: {recovery: Rewind}}}"]
    assert main(["run", str(recipe), "--quiet", "--save-model", "models/last.safetensors", *only]) == 0
    (root,) = Path("runs").iterdir()
    saved = TrainingState.load(root / "seed-1/last/round-02/final.safetensors").part("model")
    loaded = load_file("models/last.safetensors")
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())


def test_one_column_less_is_no_result(finished: Path, tmp_path: Path) -> None:
    text = (finished / "results.csv").read_text().replace("strategy,", "", 1)
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(FileFormatError):
        read_csv(tmp_path / "results.csv")
    assert Result.__dataclass_fields__.keys() >= {"strategy"}


def test_a_network_through_which_nothing_gets_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Random masks that leave a few weights, which do not meet."""
    pruning = "{criterion: Random, schedule: {name: OneShot, amount: 0.9995}, protect_classifier: false, min_units: 0}"
    text = f"""
name: digits_cut
data: digits
model: {{name: mlp, depth: 6, width: 40, activation: relu, inputs: 64}}
train_dense: false
training: {{epochs: 1, batch_size: 32}}
pruning: {pruning}
"""
    (tmp_path / "cut.yaml").write_text(text)
    run_recipe(tmp_path / "cut.yaml", [f"output={tmp_path}"], dry_run=True, quiet=True)
    assert any("nothing gets through the whole network: fc1.weight" in record.getMessage() for record in caplog.records)
