"""The section `sharing` of a recipe: shared, trained on, rounded, packed; every stage's accuracy and bytes (001-12)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sparsewood as sw
from sparsewood.models import small_conv
from sparsewood.run import trainings
from sparsewood.run.command import run_recipe
from sparsewood.run.directory import Stage
from sparsewood.run.recipe import RecipeError, cell_hash, effective, load_recipe, parse_recipe
from sparsewood.state import TrainingState
from sparsewood.types import Masks

RECIPE = """
name: small
data: digits
model: {name: small_conv, widths: [4], hidden: 16, size: 8}
training: {epochs: 3, batch_size: 128, optimizer: {name: SGD, lr: 0.1, momentum: 0.9}}
retraining: {epochs: 2}
pruning: {schedule: {name: Levels, amounts: [0.5, 0.8]}, rounds: 2, protect_classifier: false}
variants:
  tuned: {sharing: {clusters: 7, tuning: {epochs: 2, optimizer: {name: Adam, lr: 1e-3}}}}
  plain: {sharing: {bits: 4, codebook_bits: null, per_channel: true}}
  during: {pruning: {schedule: {name: OneShot, amount: 0.8}, unit: epoch, rounds: 1}, sharing: {clusters: 3}}
  none: {}
"""
WEIGHTS = ("features.0.weight", "hidden.weight", "classifier.weight")


class Stop(Exception):
    """The process ends here."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "recipe.yaml"
    path.write_text(RECIPE)
    return run_recipe(path, [f"output={path.parent}"], quiet=True)


def state(root: Path, variant: str, name: str = "final") -> dict[str, Tensor]:
    return TrainingState.load(root / "seed-1" / variant / "shared" / f"{name}.safetensors").part("model")


def rows(root: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (root / "stages.csv").open() as stream:
        read = list(csv.DictReader(stream))
    return {(row["strategy"], row["stage"]): row for row in read}


def test_every_stage_has_its_accuracy_and_its_bytes(finished: Path) -> None:
    found = rows(finished)
    before, after = ["dense", "dense, trained on", "pruned", "shared"], ["packed and read back"]
    assert [stage for variant, stage in found if variant == "tuned"] == [
        *before, "values trained on", "8-bit values", *after,
    ]  # fmt: skip
    assert [stage for variant, stage in found if variant == "plain"] == [*before, *after]
    assert not [key for key in found if key[0] == "none"]
    for variant in ("tuned", "plain", "during"):
        bytes_ = [int(row["file_bytes"]) for (name, _), row in found.items() if name == variant]
        assert bytes_[-1] < bytes_[2] < bytes_[0] < int(found[variant, "dense"]["state_bytes"])
        last = found[variant, "packed and read back"]
        path = finished / "seed-1" / variant / "shared" / "network.swp"
        assert path.stat().st_size == int(last["file_bytes"])
        assert float(last["ratio"]) == pytest.approx(int(last["state_bytes"]) / int(last["file_bytes"]))


def test_the_file_is_the_last_stage_bit_for_bit(finished: Path) -> None:
    for variant in ("tuned", "plain", "during"):
        path = finished / "seed-1" / variant / "shared" / "network.swp"
        back = sw.unpack(path, model=small_conv(widths=[4], hidden=16, size=8)).state_dict()
        for name, tensor in state(finished, variant).items():
            assert torch.equal(back[name], tensor), name


def test_few_values_and_the_zeros_of_the_masks(finished: Path) -> None:
    """[001-10] [001-12]"""
    masks = Masks.load(finished / "seed-1/tuned/round-02/masks.safetensors")
    for stage in ("at-once", "tuned", "final"):
        weights = state(finished, "tuned", stage)
        for name in WEIGHTS:
            values = weights[name][weights[name] != 0].unique()
            assert 2 <= len(values) <= 7, (stage, name)
            assert not weights[name][~masks[name]].any()
    assert not torch.equal(
        state(finished, "tuned")["hidden.weight"], state(finished, "tuned", "tuned")["hidden.weight"]
    )
    for row in state(finished, "plain")["hidden.weight"]:
        assert len(row.unique()) <= 16


def test_values_are_trained_together(finished: Path) -> None:
    """Entries that had one value right after sharing have one value afterwards."""
    first, last = (state(finished, "tuned", stage)["hidden.weight"] for stage in ("at-once", "tuned"))
    assert not torch.equal(first, last)
    for value in first.unique():
        assert len(last[first == value].unique()) == 1


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The process ends at the first checkpoint of the tuning."""
    seen: list[int] = []
    save = Stage.save_checkpoint

    def stop(stage: Stage, at: TrainingState) -> None:
        save(stage, at)
        if stage.directory.name == "shared" and not seen:
            seen.append(at.step)
            raise Stop

    monkeypatch.setattr(Stage, "save_checkpoint", stop)
    yield seen
    assert seen


def test_a_tuning_that_was_cut_goes_on(finished: Path, checkpoints: list[int], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    with pytest.raises(Stop):
        run_recipe(path, [f"output={tmp_path}"], quiet=True)
    root = run_recipe(path, [f"output={tmp_path}"], quiet=True)
    assert checkpoints
    assert (root / "stages.csv").read_text() == (finished / "stages.csv").read_text()
    for name, tensor in state(finished, "tuned").items():
        assert torch.equal(state(root, "tuned")[name], tensor), name


def test_a_finished_run_does_nothing_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainings, "fit", None)
    before = (finished / "stages.csv").read_text()
    run_recipe(finished.parent / "recipe.yaml", [f"output={finished.parent}"], quiet=True)
    assert (finished / "stages.csv").read_text() == before


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    root = run_recipe(path, [f"output={tmp_path}"], dry_run=True, quiet=True)
    assert ("tuned", "packed and read back") in rows(root)
    assert "packed and read back" in capsys.readouterr().out


def test_tuning_is_training_with_changes() -> None:
    recipe = parse_recipe(RECIPE)
    tuning = recipe.variant("tuned").sharing
    assert tuning is not None
    assert tuning.tuning is not None
    assert (tuning.tuning.batch_size, tuning.tuning.epochs) == (128, 2)
    assert parse_recipe(effective(recipe)) == recipe


def test_recipes_without_sharing_have_the_hash_that_they_had() -> None:
    recipe = parse_recipe("{name: x, data: digits, model: small_conv}")
    assert recipe.hash == "21cbf2f94232e3c53e29bf7f641015e2747baacaabc75a746e336ce6cec51b75"
    variant = parse_recipe(RECIPE).variant("plain")
    other = parse_recipe(RECIPE, overrides=["variants.plain.sharing.bits=3"])
    assert cell_hash(other, variant, 1) != cell_hash(other, other.variant("plain"), 1)


@pytest.mark.parametrize(
    ("sharing", "message"),
    [
        ("{}", "clusters or bits"),
        ("{clusters: 3, bits: 2}", "one of them"),
        ("{clusters: 0}", "clusters"),
        ("{bits: 17}", "bits"),
        ("{clusters: 3, codebook_bits: 4}", "codebook_bits"),
        ("{clusters: 3, tunning: {}}", "tunning"),
    ],
)
def test_what_cannot_be_said_is_refused(sharing: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(f"{{name: x, data: digits, model: small_conv, sharing: {sharing}}}")


def test_precisions_must_agree(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    override = "variants.tuned.sharing.tuning.precision=bf16-mixed"
    with pytest.raises(sw.SparsewoodError, match=r"'tuned': the tuning of shared values has precision 'bf16-mixed'"):
        run_recipe(path, [f"output={tmp_path}", override], quiet=True)
    assert load_recipe(path).variant("tuned").sharing is not None


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_file_that_is_no_longer_there_is_written_again(
    finished: Path, capsys: pytest.CaptureFixture[str], jobs: int
) -> None:
    path = finished / "seed-1/plain/shared/network.swp"
    before = path.read_bytes()
    path.unlink()
    run_recipe(finished.parent / "recipe.yaml", [f"output={finished.parent}"], quiet=True, jobs=jobs)
    assert f"{path}\n" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_a_variant_may_say_bits_where_all_have_clusters() -> None:
    text = "{name: x, data: digits, model: small_conv, sharing: {clusters: 3}, variants: {a: {sharing: %s}}}"
    with pytest.raises(RecipeError, match=r"line 1: variants.a.sharing: Say how many .* \(null takes back the other\)"):
        parse_recipe(text % "{bits: 2}")
    sharing = parse_recipe(text % "{bits: 2, clusters: null}").variant("a").sharing
    assert sharing is not None
    assert (sharing.bits, sharing.clusters) == (2, None)
