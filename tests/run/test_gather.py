"""Reports: what lies in directories becomes one study, and what is missing in it is said."""

from __future__ import annotations

import json
import runpy
import shutil
import sqlite3
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparsewood.errors import SparsewoodError
from sparsewood.report.study import Row, Study
from sparsewood.run.bench import last_masks
from sparsewood.run.cells import cells_of
from sparsewood.run.cli import main
from sparsewood.run.command import run_recipe
from sparsewood.run.gather import gather
from sparsewood.run.grid import load_grid
from sparsewood.run.report_command import report_on
from sparsewood.run.store import FILE
from sparsewood.types import Masks

small_sweep = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("small_sweep.py"))))

GRID = """
name: gathered
problems: {digits: {data: digits, model: {name: small_conv, widths: [4, 8], hidden: 16}}}
methods:
  mine: {}
  lamp: {pruning: {criterion: LAMP}}
  long: {retraining: {epochs: 2}, pruning: {criterion: LAMP}}
compressions: [2, 8]
controls: [dense_tuned, random, magnitude, random_layers]
training: {epochs: 1, batch_size: 128, optimizer: {name: SGD, lr: 0.1, momentum: 0.9}}
seeds: 2
latency: false
"""
RECIPE = """
name: ran
data: digits
model: {name: small_conv, widths: [4], hidden: 8}
training: {epochs: 1, batch_size: 128}
pruning: {schedule: {name: Geometric, rate: 0.5}, rounds: 2}
variants: {magnitude: {}, random: {pruning: {criterion: Random}}}
"""
SENSITIVITY = """\
parameter,sparsity,top1,top5,loss,granularity,achieved,samples,fingerprint
hidden.weight,0.0,0.9,1.0,0.3,Element,0.0,10,f
hidden.weight,0.9,0.5,1.0,0.9,Element,0.89,10,f
hidden.weight,0.5,0.8,1.0,0.5,Element,0.5,10,f
classifier.weight,0.5,0.4,1.0,0.5,Element,0.5,10,f
"""
UNITS = """\
layer,unit,state,zeros,unitmem,image,label
fc,0,,0.1,0.75,7,cat
fc,1,dead,1.0,0.0,,
fc,2,,0.5,,,
head,0,,0.0,0.25,3,dog
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gather")
    code, place = small_sweep.sweep(directory, GRID)
    assert code == 0
    return place


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ran")
    (directory / "r.yaml").write_text(RECIPE)
    return run_recipe(directory / "r.yaml", [f"output={directory}"], quiet=True)


@pytest.fixture
def copied(swept: Path, tmp_path: Path) -> Path:
    """The same results, to be damaged."""
    return Path(shutil.copytree(swept, tmp_path / "copied"))


def notes(place: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(place.rglob("cell.json"))]


def keys(rows: Any) -> set[tuple[str, float, int]]:
    return {(row.method, row.amount, row.seed) for row in rows}


def command(place: Path, text: str) -> None:
    with sqlite3.connect(place / FILE) as database:
        assert database.execute(text).rowcount > 0
    database.close()


def stage_of(place: Path, method: str, amount: float, seed: int) -> Path:
    for path in place.rglob("cell.json"):
        cell = json.loads(path.read_text())
        if (cell["method"], cell["amount"], cell["seed"]) == (method, amount, seed):
            return path.parent
    raise AssertionError(f"no cell {method}")


# ---------------------------------------------------------------- sweeps


def test_every_cell_is_a_row_with_what_it_noted(swept: Path) -> None:
    study = gather([swept]).study
    cells = {cell["hash"]: cell for cell in notes(swept)}
    assert {row.hash for row in study.rows} == set(cells)
    assert len(study.rows) == len(cells) > 40
    for row in study.rows:
        cell = cells[row.hash]
        for name in Row.__dataclass_fields__:
            assert getattr(row, name) == cell.get(name), name
    assert (study.title, study.failures) == ("gathered", [])
    assert {row.role for row in study.rows if row.method in ("mine", "lamp", "long")} == {"method"}


def test_facts_of_a_sweep(swept: Path) -> None:
    gathered = gather([swept])
    there = {(item.section, item.name): item.value for item in gathered.study.checklist if item.there}
    missing = {item.name for item in gathered.study.missing}
    assert missing >= {
        "pairs",
        "operating points",
        "seeds",
        "smaller dense network",
        "from scratch",
        "magnitude by layer",
    }
    assert not missing & {"initial weights", "schedule", "random global", "magnitude", "random by layer", "library"}
    assert not missing & {"data sets", "architectures", "layers", "hyper-parameters", "hardware", "recipes", "code"}
    assert len(there["setup", "initial weights"]) == 2  # type: ignore[arg-type]
    command_line = gathered.study.about["command"]
    assert command_line.startswith("sparsewood sweep ")
    assert f"--set output={swept.parent}" in command_line
    assert gathered.study.about["networks"] == str(len(gathered.study.rows))
    assert not gathered.study.complete
    assert not gathered.report["complete"]


def test_what_is_trained_for_as_long_is_each_methods_own(swept: Path) -> None:
    """Differences are of equal trainings: `long` is retrained for two epochs, and so is its dense control."""
    study = gather([swept]).study
    reached = {(row.method, row.amount, row.seed): row.accuracy for row in study.rows}
    for method, control in (("long", "dense_tuned_as_long"), ("lamp", "dense_tuned")):
        (found,) = [
            one for one in study.differences if (one.method, one.control, one.amount) == (method, "dense_tuned", 2.0)
        ]
        wanted = [100 * (reached[method, 2.0, seed] - reached[control, 1.0, seed]) for seed in (1, 2)]
        assert (found.pairs, found.mean) == (2, pytest.approx(statistics.fmean(wanted)))


def test_differences_are_to_controls_of_the_same_recovery(swept: Path) -> None:
    study = gather([swept]).study
    controls = {method: set() for method in ("mine", "lamp", "long")}  # type: ignore[var-annotated]
    for one in study.differences:
        controls[one.method].add(one.control)
    usual = {"dense_tuned", "random", "random_layers"}
    assert controls == {"mine": usual, "lamp": usual | {"magnitude"}, "long": usual | {"magnitude"}}
    reached = {(row.method, row.amount, row.seed): row.accuracy for row in study.rows}
    for method, control, theirs in (
        ("long", "random", "random_as_long"),
        ("lamp", "random", "random"),
        ("lamp", "magnitude", "mine"),  # which is it, by another name
        ("long", "magnitude", "magnitude"),
    ):
        (found,) = [d for d in study.differences if (d.method, d.control, d.amount) == (method, control, 8.0)]
        wanted = [100 * (reached[method, 8.0, seed] - reached[theirs, 8.0, seed]) for seed in (1, 2)]
        assert found.mean == pytest.approx(statistics.fmean(wanted)), (method, control)


def test_what_masks_show(swept: Path) -> None:
    study = gather([swept]).study
    masks = [Masks.load(next(stage_of(swept, "lamp", 8.0, seed).glob("*/masks.safetensors"))) for seed in (1, 2)]
    layer = next(one for one in study.layers if (one.method, one.amount, one.layer) == ("lamp", 8.0, "hidden.weight"))
    wanted = statistics.fmean(1 - float(one["hidden.weight"].double().mean()) for one in masks)
    assert (layer.size, layer.sparsity) == (16 * 128, pytest.approx(wanted))
    unit = next(one for one in study.unit_maps if (one.method, one.amount, one.layer) == ("lamp", 8.0, "hidden.weight"))
    assert unit.kept == pytest.approx(masks[0]["hidden.weight"].double().mean(1).tolist(), abs=1e-4)
    between = {(one.between, one.of, one.amount): one for one in study.overlaps}
    assert between["methods", "", 2.0].names == ("mine", "lamp", "long")
    assert between["seeds", "lamp", 2.0].names == ("seed 1", "seed 2")
    assert between["methods", "", 2.0].matrix[1][2] == 1.0  # the same masks, trained for longer
    assert between["methods", "", 2.0].matrix[0][1] < 1.0
    chance = between["seeds", "lamp", 2.0].chance
    assert chance is not None
    assert 0 < chance < 1
    assert {one.method for one in study.histograms} == {"mine", "lamp", "long"}
    picture = next(one for one in study.networks if (one.method, one.amount) == ("lamp", 8.0))
    assert [box.layer for box in picture.boxes] == [
        *("features.0.weight", "features.2.weight", "hidden.weight", "classifier.weight")
    ]
    assert picture.boxes[2].entries_left == int(masks[0]["hidden.weight"].count_nonzero())
    stages = {(one.method, one.stage, len(one.epochs)) for one in study.curves}
    assert {("dense", "dense", 1), ("lamp", "round-01", 1), ("long", "round-01", 2)} <= stages
    assert not any(one.method.startswith("random_layers") for one in study.curves)


def test_the_last_of_many_rounds_is_the_last_by_its_number(tmp_path: Path) -> None:
    for number in (1, 99, 100):
        (tmp_path / f"round-{number:02d}").mkdir()
        masks = Masks({"w": torch.arange(200) < number})
        masks.save(tmp_path / f"round-{number:02d}" / "masks.safetensors")
    found = last_masks(tmp_path)
    assert found is not None
    assert int(found["w"].count_nonzero()) == 100
    assert last_masks(tmp_path / "round-99") is not None
    (tmp_path / "none").mkdir()
    assert last_masks(tmp_path / "none") is None


# ---------------------------------------------------------------- what is not there


def test_unfinished_cells_are_failures(copied: Path) -> None:
    lamp, long = stage_of(copied, "lamp", 2.0, 1), stage_of(copied, "long", 8.0, 2)
    (lamp / "cell.json").unlink()
    command(copied, "DELETE FROM cells WHERE method = 'lamp' AND amount = 2 AND seed = 1")
    error = "It ended without a word."
    command(
        copied,
        f"UPDATE cells SET status = 'failed', error = '{error}' WHERE method = 'long' AND amount = 8 AND seed = 2",
    )
    (long / "cell.json").unlink()
    command(copied, "UPDATE cells SET status = 'skipped', error = 'It needs x.' WHERE method = 'random_layers_of_long'")
    gathered = gather([copied])
    failures = {(f.method.partition("-")[0], f.seed, f.error) for f in gathered.study.failures}
    assert ("lamp", 1, "It is not done yet.") in failures
    assert ("long", 2, error) in failures
    assert ("random_layers_of_long", 1, "It needs x.") in failures
    assert len(gathered.study.failures) == 1 + 1 + 4
    assert {("lamp", 2.0, 1), ("long", 8.0, 2)}.isdisjoint(keys(gathered.study.rows))
    assert not gathered.study.complete
    assert len(gathered.report["failed"]) == 6
    (paired,) = [d for d in gathered.study.differences if (d.method, d.control, d.amount) == ("lamp", "random", 2.0)]
    assert (paired.pairs, paired.low) == (1, None)


def test_a_cell_whose_note_is_gone_is_a_failure(copied: Path) -> None:
    (stage_of(copied, "lamp", 2.0, 1) / "cell.json").unlink()
    (failure,) = gather([copied]).study.failures
    assert (failure.method, failure.amount, failure.seed) == ("lamp", 2.0, 1)


@pytest.mark.parametrize("text", ['{"problem": "dig', "[]", '{"seed": 1}', "NaN"])
def test_a_damaged_note_keeps_no_others_from_being_shown(copied: Path, text: str) -> None:
    count = len(gather([copied]).study.rows)
    path = stage_of(copied, "lamp", 2.0, 1) / "cell.json"
    nan = json.dumps({**json.loads(path.read_text()), "accuracy": float("nan")})
    path.write_text(nan if text == "NaN" else text)
    study = gather([copied]).study
    (failure,) = study.failures
    assert (failure.method, failure.amount, failure.seed) == ("lamp", 2.0, 1)
    assert "cell.json, is damaged" in failure.error
    assert len(study.rows) == count - 1


def test_networks_that_nobody_began_with_have_their_names_and_amounts(copied: Path) -> None:
    command(copied, "DELETE FROM cells")
    study = gather([copied]).study
    assert not study.rows
    named = {(one.method, one.amount) for one in study.failures}
    assert named >= {
        ("dense", 1.0),
        ("dense_tuned", 1.0),
        ("lamp", 8.0),
        ("random", 2.0),
        ("random_layers_of_lamp", 2.0),
    }
    assert all(one.error == "It is not done yet." for one in study.failures)


def test_a_sweep_in_which_something_failed(tmp_path: Path) -> None:
    """[8.3] No table is complete without it, and the others are there."""
    text = GRID.replace("  lamp: {pruning: {criterion: LAMP}}\n  long", "  long").replace("seeds: 2", "seeds: 1")
    code, place = small_sweep.sweep(tmp_path, text, "compressions=[2]", failing=frozenset({"long"}))
    assert code == 1
    study = gather([place]).study
    failures = {failure.method: failure.error for failure in study.failures}
    assert failures["long"] == "It was told to fail."
    assert "digits: long 2x, seed 1" in failures["random_layers_of_long"]
    assert set(failures) == {"long", "random_layers_of_long"}
    assert {row.method for row in study.rows} >= {"dense", "mine", "random_layers_of_mine"}
    code, _ = small_sweep.sweep(tmp_path, text, "compressions=[2]")  # tried again, with better luck
    assert code == 0
    assert gather([place]).study.failures == []


def test_different_first_weights_are_found(copied: Path) -> None:
    """[8.3] Initial weights identical for all methods."""
    path = stage_of(copied, "lamp", 2.0, 1) / "cell.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "first_weights": "another"}))
    missing = {item.name: item.reason for item in gather([copied]).study.missing}
    assert "digits, seed 1" in missing["initial weights"]


# ---------------------------------------------------------------- other directories


def test_a_run_is_a_study(ran: Path) -> None:
    gathered = gather([ran])
    study = gathered.study
    assert {row.problem for row in study.rows} == {"digits, small_conv"}
    assert keys(study.rows) == {
        ("dense", 1.0, 1), ("magnitude", 2.0, 1), ("magnitude", 4.0, 1), ("random", 2.0, 1), ("random", 4.0, 1)
    }  # fmt: skip
    results = json.loads((ran / "seed-1" / "evaluation.json").read_text())["results"]
    for row in study.rows:
        one = next(
            r for r in results if r["result"]["strategy"] == row.method and round(1 / r["kept"], 3) == row.amount
        ) if row.method != "dense" else results[0]  # fmt: skip
        assert (row.accuracy, row.before) == (
            one["result"]["post_acc1"],
            one["result"]["pre_acc1"] if one["round"] else None,
        )
        assert (row.compression, row.size_nz) == (one["result"]["real_compression"], one["result"]["size_nz"])
    assert study.title == "ran"
    assert study.layers
    assert study.unit_maps
    assert study.curves
    missing = {item.name for item in study.missing}
    assert {"initial weights", "schedule", "dense, trained on", "recipes", "random by layer"} <= missing
    assert not missing & {"control", "hyper-parameters", "data pipeline", "library", "hardware", "competing methods"}
    assert not gathered.report["complete"]


def test_variants_of_a_run_that_train_otherwise_have_a_control_of_their_own(tmp_path: Path) -> None:
    pruned = """\
seeds: 1
pruning: {schedule: {name: OneShot, amount: 0.5}}
retraining: {epochs: 1}
variants: {short: {}, same: {pruning: {criterion: Random}}, long: {retraining: {epochs: 2}}}
"""
    (tmp_path / "r.yaml").write_text(RECIPE.partition("pruning:")[0] + pruned)
    study = gather([run_recipe(tmp_path / "r.yaml", [f"output={tmp_path}"], quiet=True)]).study
    controls = {row.method: row for row in study.rows if row.role == "control"}
    assert {name: row.of for name, row in controls.items()} == {"dense": "", "dense_of_long": "long"}
    methods = {row.method: row for row in study.rows if row.role == "method"}
    found = {one.method: one.mean for one in study.differences if one.control == "dense"}
    for name, control in (("short", "dense"), ("same", "dense"), ("long", "dense_of_long")):
        assert found[name] == pytest.approx(100 * (methods[name].accuracy - controls[control].accuracy))


def test_tables_of_sensitivity(tmp_path: Path) -> None:
    (tmp_path / "sensitivity.csv").write_text(SENSITIVITY)
    for place in (tmp_path, tmp_path / "sensitivity.csv", tmp_path.parent):
        if place == tmp_path.parent and not (place / "sensitivity.csv").is_file():
            continue
        curves = {one.layer: one for one in gather([place]).study.sensitivity}
        assert (curves["hidden.weight"].sparsity, curves["hidden.weight"].accuracy) == (
            (0.0, 0.5, 0.89),
            (0.9, 0.8, 0.5),
        )
        assert curves["classifier.weight"].accuracy == (0.9, 0.4)  # from the whole network on
        assert {one.granularity for one in curves.values()} == {"Element"}


def test_tables_of_units(tmp_path: Path) -> None:
    (tmp_path / "units.csv").write_text(UNITS)
    (found,) = gather([tmp_path / "units.csv"]).study.memorization
    assert found.scores == {"fc": (0.75, None, None), "head": (0.25,)}
    assert gather([tmp_path]).study.memorization == [found]


def test_several_at_once(swept: Path, ran: Path, tmp_path: Path) -> None:
    (tmp_path / "units.csv").write_text(UNITS)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "sensitivity.csv").write_text(SENSITIVITY)
    study = gather([swept, ran, tmp_path], "together").study
    assert study.title == "together"
    assert {row.problem for row in study.rows} == {"digits", "digits, small_conv"}
    assert (len(study.sensitivity), len(study.memorization)) == (2, 1)
    assert gather([swept, ran]).study.title == "gathered, ran"


def test_a_directory_of_directories_is_looked_into(swept: Path) -> None:
    assert keys(gather([swept.parent]).study.rows) == keys(gather([swept]).study.rows)


def test_what_is_left_out_of_a_directory_of_directories_is_told(
    swept: Path, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = copied.parent / "begun"
    begun.mkdir()
    (begun / "params.json").write_text("{}")
    assert len(gather([copied.parent]).study.rows) == len(gather([swept]).study.rows)
    (told,) = caplog.messages
    assert told == f"'{begun}' is left out of the report: nothing in it is finished."


def test_what_is_found_twice_is_no_further_seed(swept: Path, copied: Path, ran: Path) -> None:
    """Two sweeps may have cells in common, and a directory may be given twice."""
    once, twice = gather([swept, ran]), gather([swept, copied, swept, ran, ran])
    assert [row.hash for row in twice.study.rows] == [row.hash for row in once.study.rows]
    assert twice.report["results"] == once.report["results"]
    assert twice.report["differences"] == once.report["differences"]
    assert [(one.method, one.amount) for one in twice.study.unit_maps] == [
        (one.method, one.amount) for one in once.study.unit_maps
    ]


def test_runs_of_other_settings_are_not_pooled(ran: Path, tmp_path: Path) -> None:
    """What is called alike but is something else has its own name, so that no mean and no pair goes across."""

    def run(name: str, *changes: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "r.yaml").write_text(RECIPE)
        return run_recipe(tmp_path / name / "r.yaml", [f"output={tmp_path / name}", *changes], quiet=True)

    longer = run("longer", "training.epochs=2")
    other = run("other", "pruning.criterion=Random", "seeds=[7]")  # as many more seeds of something else
    alone, both, three = (gather(list(places)) for places in ((ran,), (ran, longer), (ran, other)))
    problems = {row.problem for row in both.study.rows}
    assert len(problems) == 2
    assert all(name.startswith("digits, small_conv") for name in problems)
    first = [row for row in both.study.rows if row.problem == "digits, small_conv"]
    assert first == alone.study.rows
    kept = [one for one in both.study.differences if one.problem == "digits, small_conv"]
    assert kept == alone.study.differences

    assert {row.problem for row in three.study.rows} == {"digits, small_conv"}
    named = {row.method for row in three.study.rows} - {row.method for row in alone.study.rows}
    hash_of = json.loads((other / "params.json").read_text())["hash"][:6]
    assert named
    assert all(name.endswith(f" {hash_of})") for name in named)
    every = [(row.problem, row.method, row.of, row.amount, row.seed) for row in three.study.rows]
    assert len(set(every)) == len(every)


def test_what_failed_in_one_sweep_and_is_there_in_another_did_not_fail(swept: Path, copied: Path) -> None:
    (stage_of(copied, "lamp", 2.0, 1) / "cell.json").unlink()
    assert len(gather([copied]).study.failures) == 1
    assert gather([copied, swept]).study.failures == []


def test_places_with_nothing_to_show_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SparsewoodError, match=r"none' does not exist"):
        gather([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SparsewoodError, match=r"empty' holds nothing that a report could show.*sparsewood sweep"):
        gather([tmp_path / "empty"])
    (tmp_path / "empty" / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty" / "latin.csv").write_bytes(b"\xe4\xff,b\n")
    (tmp_path / "empty" / "none.csv").write_text("")
    for place in (tmp_path / "empty", tmp_path / "empty" / "other.csv", tmp_path / "empty" / "latin.csv"):
        with pytest.raises(SparsewoodError, match="holds nothing"):
            gather([place])
    (tmp_path / "notes.txt").write_text("layer,unit,unitmem\n")
    with pytest.raises(SparsewoodError, match="holds nothing"):
        gather([tmp_path / "notes.txt"])


def test_a_dry_run_is_said_to_be_one(tmp_path: Path) -> None:
    text = GRID.replace("controls: [dense_tuned, random, magnitude, random_layers]", "controls: []")
    code, place = small_sweep.sweep(tmp_path, text, "compressions=[2]", dry_run=True)
    assert (code, place.name) == (0, "gathered-dry-run")
    gathered = gather([place])
    assert {row.seed for row in gathered.study.rows} == {1}
    assert gathered.report["dry_run"]
    assert "nothing" in gathered.study.about["dry run"]


# ---------------------------------------------------------------- the command


def test_the_command_writes_a_page_and_a_report(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "new" / "page.html"
    assert main(["report", str(swept), "-o", str(page), "--title", "A title"]) == 0
    told = capsys.readouterr().out
    assert page.read_text(encoding="utf-8").startswith("<!")
    assert "A title" in page.read_text(encoding="utf-8")
    report = json.loads((page.parent / "report.json").read_text())
    assert report == json.loads(json.dumps(gather([swept]).report))
    assert str(page) in told
    assert "Not complete" in told
    assert f"{len(report['missing'])} of 35 items are missing" in told
    for line in report["missing"]:
        assert line.split(": ")[1] in told


def test_strict_is_the_exit_code(swept: Path, tmp_path: Path) -> None:
    page = ["-o", str(tmp_path / "page.html")]
    assert main(["report", str(swept), *page, "--strict"]) == 1
    assert main(["report", str(swept), *page]) == 0


@pytest.mark.parametrize(("complete", "code"), [(True, 0), (False, 1)])
def test_strict_is_of_what_the_report_says(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complete: bool, code: int
) -> None:
    """A dry run that has every item is not complete either."""
    from sparsewood.run import report_command

    gathered = gather([swept])
    items = [item for item in gathered.study.checklist if item.there]
    study = Study("s", rows=gathered.study.rows, checklist=items)
    assert study.complete
    told = {**gathered.report, "complete": complete, "dry_run": not complete}
    monkeypatch.setattr(report_command, "gather", lambda *_: SimpleNamespace(study=study, report=told))
    assert report_on([swept], tmp_path / "page.html", figures=None, title=None, strict=True) == code


def test_failures_are_told(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(copied, "UPDATE cells SET status = 'failed', error = 'why not'")
    assert main(["report", str(copied), "-o", str(tmp_path / "page.html")]) == 0
    told = capsys.readouterr().out
    assert told.count("why not") == 20
    assert "more networks" in told


def test_pages_of_other_kinds_are_refused_before_anything_is_read(swept: Path, tmp_path: Path) -> None:
    with pytest.raises(SparsewoodError, match=r"page\.html.*Got '.*page\.pdf'"):
        report_on([swept], tmp_path / "page.pdf", figures=None, title=None, strict=False)
    assert main(["report", str(tmp_path / "none"), "-o", str(tmp_path / "page.html")]) == 2
    assert not (tmp_path / "page.html").exists()


def test_without_a_page_the_report_lies_beside_the_results(copied: Path) -> None:
    assert report_on([copied], None, figures=None, title=None, strict=False) == 0
    assert json.loads((copied / "report.json").read_text())["dry_run"] is False


@pytest.mark.slow
def test_figures_are_written(swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_on([swept], tmp_path / "page.html", figures=tmp_path / "figures", title=None, strict=False) == 0
    names = {path.suffix for path in (tmp_path / "figures").iterdir()}
    assert names == {".png", ".svg"}
    files = list((tmp_path / "figures").iterdir())
    assert f"{len(files)} files of figures" in capsys.readouterr().err
    assert all(path.stat().st_size > 1000 for path in files)


def test_every_cell_of_the_grid_is_looked_for(swept: Path) -> None:
    (plan,) = cells_of(load_grid(swept.parent / "grid.yaml", [f"output={swept.parent}"]))
    assert {row.hash for row in gather([swept]).study.rows} == {cell.hash for cell in plan.cells}
