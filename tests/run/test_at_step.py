"""`at_step`: what goes is chosen on the network as it was early in its dense training; at 0, before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsewood.criteria import Magnitude
from sparsewood.errors import SparsewoodError
from sparsewood.measurement import evaluate
from sparsewood.models import small_conv
from sparsewood.pruning import prune
from sparsewood.pruning.settings import Pruning
from sparsewood.recovery import FineTune, Rewind
from sparsewood.run.bench import Bench, load_split
from sparsewood.run.canonical import canonical
from sparsewood.run.command import run_recipe
from sparsewood.run.components import RecipeError
from sparsewood.run.progress import no_progress
from sparsewood.run.recipe import Variant, cell_hash, effective, parse_recipe, recipe_hash
from sparsewood.schedules import OneShot
from sparsewood.state import TrainingState, restore
from sparsewood.types import Masks

HEAD = """
name: early
data: digits
model: {name: small_conv, widths: [4, 8], hidden: 16}
training: {epochs: 1, batch_size: 128, optimizer: {name: SGD, lr: 0.1, momentum: 0.9}}
pruning: {schedule: {name: OneShot, amount: 0.8}, recovery: {name: Rewind, step: 0}}
"""
STEPS = 9  # of 1,079 images
VARIANTS = {
    "magnitude": "pruning: {criterion: Magnitude}",
    "random": "pruning: {criterion: Random}",
    "snip": "pruning: {criterion: WeightTimesGradient}",
    "synflow": "pruning: {criterion: SynFlow, iterations: 5}",
    "rows": "pruning: {criterion: Magnitude, granularity: Row}",
    "units": "pruning: {criterion: FilterNorm, granularity: Coupled, schedule: {name: OneShot, amount: 0.5}}",
    "shots": (
        "independent: true, pruning: {criterion: LAMP, schedule: {name: Levels, amounts: [0.5, 0.9]}, rounds: 2}"
    ),
}


def run(directory: Path, *more: str, dry_run: bool = False) -> Path:
    path = directory / "r.yaml"
    path.write_text("\n".join([HEAD, *more]))
    return run_recipe(path, [f"output={directory}"], quiet=True, dry_run=dry_run)


def listed(step: int | None) -> list[str]:
    at = "" if step is None else f"at_step: {step}, "
    return ["variants:", *(f"  {name}: {{{at}{told}}}" for name, told in VARIANTS.items())]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One where the dense training is left out, and others where it is not, with and without `at_step`."""

    def place(name: str) -> Path:
        return tmp_path_factory.mktemp(name)

    return {
        "never trained": run(place("never"), "train_dense: false", *listed(None)),
        "at 0": run(place("zero"), *listed(0)),
        "trained": run(place("trained"), *listed(None)),
        "at 5": run(place("five"), *listed(5)),
    }


def masks(place: Path, variant: str, number: int = 1) -> Masks:
    return Masks.load(place / f"seed-1/{variant}/round-{number:02d}/masks.safetensors")


def weights(place: Path, variant: str, number: int = 1) -> TrainingState:
    return TrainingState.load(place / f"seed-1/{variant}/round-{number:02d}/final.safetensors")


def same(one: Masks, other: Masks) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rounds(variant: str) -> tuple[int, ...]:
    return (1, 2) if variant == "shots" else (1,)


def results(place: Path) -> dict[tuple[str, int], dict[str, Any]]:
    found = json.loads((place / "seed-1/evaluation.json").read_text())["results"]
    return {(one["result"]["strategy"], one["round"]): one for one in found}


# ---------------------------------------------------------------- what is chosen


@pytest.mark.parametrize("variant", VARIANTS)
def test_chosen_before_training_is_chosen_as_without_a_training(runs: dict[str, Path], variant: str) -> None:
    """[7.7] Masks and trainings are those of the recipe with `train_dense: false`, bit for bit."""
    for number in rounds(variant):
        assert same(masks(runs["at 0"], variant, number), masks(runs["never trained"], variant, number))
        both = [weights(runs[name], variant, number).fingerprint() for name in ("at 0", "never trained")]
        assert both[0] == both[1]


@pytest.mark.parametrize("variant", ["magnitude", "snip", "synflow", "shots"])  # few units change in one epoch
def test_chosen_before_training_is_not_chosen_after_it(runs: dict[str, Path], variant: str) -> None:
    for number in rounds(variant):
        different = [masks(runs[name], variant, number) for name in ("at 0", "trained", "at 5")]
        assert not same(different[0], different[1])
        assert not same(different[0], different[2])
        assert not same(different[1], different[2])
        assert {one.removed for one in different} == {different[0].removed}


def test_random_masks_do_not_depend_on_the_weights(runs: dict[str, Path]) -> None:
    assert same(masks(runs["at 0"], "random"), masks(runs["trained"], "random"))
    both = [weights(runs[name], "random").fingerprint() for name in ("at 0", "trained")]
    assert both[0] == both[1]  # both go back to step 0


def test_the_largest_weights_of_that_step_stay(runs: dict[str, Path]) -> None:
    for place, step in (("at 0", 0), ("at 5", 5)):
        model = small_conv((4, 8), hidden=16)
        restore(TrainingState.load(runs[place] / f"seed-1/dense/snapshot-{step}.safetensors"), model)
        assert same(prune(model, Magnitude(), 0.8), masks(runs[place], "magnitude"))


def test_the_dense_training_is_the_same_whatever_is_chosen_when(runs: dict[str, Path]) -> None:
    trained = {
        name: TrainingState.load(runs[name] / "seed-1/dense/final.safetensors").fingerprint()
        for name in ("at 0", "trained", "at 5")
    }
    assert len(set(trained.values())) == 1


# ---------------------------------------------------------------- what is kept and told


def test_snapshots_are_kept_where_they_are_needed(runs: dict[str, Path]) -> None:
    kept = {
        name: sorted(path.name for path in (place / "seed-1/dense").glob("snapshot-*")) for name, place in runs.items()
    }
    first, fifth = "snapshot-0.safetensors", "snapshot-5.safetensors"
    assert kept == {"never trained": [first], "at 0": [first], "trained": [first], "at 5": [first, fifth]}
    assert TrainingState.load(runs["at 5"] / "seed-1/dense" / fifth).step == 5


def test_accuracy_before_is_that_of_the_weights_that_were_pruned(runs: dict[str, Path]) -> None:
    recipe = parse_recipe(HEAD)
    bench = Bench(recipe, load_split(recipe), runs["at 5"], 1, None, no_progress)
    for place, step in (("at 0", "snapshot-0"), ("at 5", "snapshot-5"), ("trained", "final")):
        model = small_conv((4, 8), hidden=16)
        restore(TrainingState.load(runs[place] / f"seed-1/dense/{step}.safetensors"), model)
        with torch.no_grad():
            for name, mask in masks(runs[place], "magnitude").items():
                model.get_parameter(name).mul_(mask)
        found = evaluate(model, bench.plain(bench.split.test.open()), topk=(1,)).top[1]
        assert results(runs[place])["magnitude", 1]["result"]["pre_acc1"] == found, place


def test_trained_on_from_the_weights_that_were_pruned(tmp_path: Path) -> None:
    """Without a recovery that goes elsewhere."""
    tuned = "pruning: {criterion: Magnitude, recovery: FineTune}, retraining: {optimizer: {name: SGD, lr: 1.0e-9}}"
    place = run(tmp_path, f"variants: {{tuned: {{at_step: 0, {tuned}}}}}")
    first = TrainingState.load(place / "seed-1/dense/snapshot-0.safetensors").part("model")
    last = weights(place, "tuned").part("model")
    mask = masks(place, "tuned")["hidden.weight"]
    torch.testing.assert_close(last["hidden.weight"], first["hidden.weight"] * mask, atol=1e-6, rtol=0)


def test_a_step_after_the_training_and_its_last_one(tmp_path: Path) -> None:
    with pytest.raises(SparsewoodError, match=rf"goes back to step {STEPS + 1} .*has {STEPS} steps"):
        run(tmp_path, f"variants: {{late: {{at_step: {STEPS + 1}}}}}")
    place = run(tmp_path, f"variants: {{last: {{at_step: {STEPS}}}, usual: {{}}}}")
    assert same(masks(place, "last"), masks(place, "usual"))


def test_a_step_of_a_training_that_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(SparsewoodError, match="has 0 steps"):
        run(tmp_path, "train_dense: false", "variants: {late: {at_step: 1}}")


def test_a_dry_run_takes_one_batch_through_it(tmp_path: Path) -> None:
    place = run(tmp_path, "variants: {late: {at_step: 5}, first: {at_step: 0}}", dry_run=True)
    assert ("late", 1) in results(place)


# ---------------------------------------------------------------- what a recipe may say


@pytest.mark.parametrize(
    "told",
    [
        "masks_from: other",
        "matched_to: other",
        "pruning: {unit: step}",
        "pruning: {unit: epoch}",
        "pruning: {schedule: {name: Geometric, rate: 0.5}, rounds: 2}",
        "dynamics: {name: RigL, sparsity: 0.5}, pruning: {schedule: {name: OneShot, amount: 0.9}}",
    ],
)
def test_with_what_needs_more_than_one_state_it_is_refused(told: str) -> None:
    text = HEAD + f"variants: {{other: {{}}, early: {{at_step: 0, {told}}}}}"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml")
    assert "Variant 'early': at_step says on which weights is chosen" in str(caught.value)
    assert "r.yaml, line 7" in str(caught.value)
    parse_recipe(text.replace("at_step: 0, ", ""), "r.yaml")


@pytest.mark.parametrize("value", ["-1", "0.5", "true", "first"])
def test_it_is_a_step(value: str) -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml, line 7: variants\.early\.at_step"):
        parse_recipe(HEAD + f"variants: {{early: {{at_step: {value}}}}}", "r.yaml")


def test_independent_rounds_are_each_chosen_on_it() -> None:
    early = Variant("v", Pruning(schedule=OneShot(0.5), rounds=3, recovery=Rewind(0)), independent=True, at_step=0)
    assert early.snapshots == (0, 0)
    with pytest.raises(SparsewoodError, match="independent: true"):
        Variant("v", Pruning(rounds=3), at_step=0)


def test_steps_that_are_needed() -> None:
    assert Variant("v").snapshots == ()
    assert Variant("v", Pruning(recovery=Rewind(7)), at_step=3).snapshots == (7, 3)
    assert Variant("v", Pruning(recovery=FineTune()), at_step=0).snapshots == (0,)


def test_for_all_variants_or_for_one() -> None:
    recipe = parse_recipe(HEAD + "at_step: 3\nvariants: {a: {}, b: {at_step: 0}, c: {at_step: null}}")
    assert [variant.at_step for variant in recipe.variants] == [3, 0, None]


def test_it_is_part_of_the_hash_and_recipes_without_it_keep_theirs() -> None:
    def recipe(step: str) -> Any:
        return parse_recipe(HEAD + f"variants: {{a: {{{step}}}}}")

    plain, zero, one = recipe(""), recipe("at_step: 0"), recipe("at_step: 1")
    assert len({recipe_hash(each) for each in (plain, zero, one)}) == 3
    assert len({cell_hash(each, each.variants[0], 1) for each in (plain, zero, one)}) == 3
    assert len({cell_hash(each, None, 1) for each in (plain, zero, one)}) == 1
    assert recipe_hash(recipe("at_step: null")) == recipe_hash(plain)
    assert "at_step" not in canonical(plain.variants[0], Variant)
    assert canonical(zero.variants[0], Variant)["at_step"] == 0


def test_it_is_written_and_read_back() -> None:
    recipe = parse_recipe(HEAD + "variants: {a: {at_step: 0}, b: {}}")
    again = parse_recipe(effective(recipe))
    assert again == recipe
    assert [variant.at_step for variant in again.variants] == [0, None]
