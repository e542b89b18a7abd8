"""Recipes that prune whole units: the loop of UnitMem, its files, and the magnitude baseline matched to it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.data import digits
from sparsewood.data.part import Part
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import Coupled
from sparsewood.masks import apply_masks
from sparsewood.measurement import evaluate
from sparsewood.models import resnet_cifar
from sparsewood.pruning import Pruning
from sparsewood.report.unit_files import read_index, read_l1_scores, read_memorization, read_pruned_indices
from sparsewood.run.bench import Bench, load_split
from sparsewood.run.command import run_recipe
from sparsewood.run.methods import Choice, chosen
from sparsewood.run.progress import no_progress
from sparsewood.run.recipe import Recipe, cell_hash, load_recipe, parse_recipe
from sparsewood.run.unit_rounds import choose_whole_units, weights_removed
from sparsewood.schedules import Levels, OneShot
from sparsewood.shrinking.unit_masks import prune_units, units_left
from sparsewood.state import TrainingState, restore
from sparsewood.structure import Structure
from sparsewood.types import Masks
from sparsewood.unit_criteria import UnitCriterion, UnitMem

RECIPE = """
name: units
data: digits
model: {name: small_conv, widths: [6, 8], hidden: 10, size: 8, batch_norm: true}
training: {epochs: 1, batch_size: 128, optimizer: {name: SGD, lr: 0.1}}
pruning: {granularity: Coupled, schedule: {name: Levels, amounts: [0.2, 0.4, 0.5]}, rounds: 3}
variants:
  magnitude: {matched_to: low_unitmem, pruning: {granularity: Element}}
  random: {pruning: {criterion: Random}}
  low_unitmem:
    pruning: {criterion: {name: UnitMem, augment: {name: CropFlip, padding: 1}, augmentations: 2, images: 40}}
  outlier: {pruning: {criterion: {name: OutlierSelectivity, augment: null, images: 40}}}
  l1_filter: {pruning: {criterion: FilterNorm}}
  gradual: {pruning: {criterion: FilterNorm, unit: epoch, rounds: 2, schedule: {name: Levels, amounts: [0.1, 0.3]}},
            retraining: {epochs: 3}}
"""
UNITS = 6 + 8 + 10
REMOVED = (5, 10, 12)
OF_UNITS = ("random", "low_unitmem", "outlier", "l1_filter")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("units") / "recipe.yaml"
    path.write_text(RECIPE)
    return run_recipe(path, [f"output={path.parent}"], quiet=True)


def recipe_of(root: Path) -> Recipe:
    return load_recipe(root / "recipe.yaml")


def masks_of(root: Path, variant: str, level: int) -> Masks:
    return Masks.load(root / f"seed-1/{variant}/round-{level + 1:02d}/masks.safetensors")


def network_of(root: Path, path: str) -> nn.Module:
    model = recipe_of(root).model.build(generator=torch.Generator())
    restore(TrainingState.load(root / "seed-1" / path / "final.safetensors"), model)
    return model.eval()


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


# ---------------------------------------------------------------- what went


@pytest.mark.parametrize("variant", OF_UNITS)
def test_recorded_units_are_the_masked_ones(finished: Path, variant: str) -> None:
    """[000-06] [7.3] In every level the numbers in the file are the zero slices of masks and weights, and new ones."""
    recorded = read_pruned_indices(finished / f"seed-1/{variant}/pruned_indices.json")
    assert list(recorded) == [0, 1, 2]
    gone: dict[str, set[int]] = {name: set() for name in ("features.0", "features.3", "hidden")}
    for level, layers in recorded.items():
        for name, numbers in layers.items():
            assert not gone[name] & set(numbers)
            gone[name] |= set(numbers)
        masks, model = masks_of(finished, variant, level), network_of(finished, f"{variant}/round-{level + 1:02d}")
        for name, numbers in gone.items():
            for tensor in (masks[f"{name}.weight"], model.get_parameter(f"{name}.weight")):
                zero = ~tensor.flatten(1).any(1)
                assert set(zero.nonzero().flatten().tolist()) == numbers
        assert sum(len(numbers) for numbers in gone.values()) == REMOVED[level]


def test_masked_units_are_silent_after_training(finished: Path) -> None:
    """[000-09] [7.1] [7.2] Also behind BatchNorm, whose scale and shift are masked with the filter."""
    model, masks = network_of(finished, "low_unitmem/round-03"), masks_of(finished, "low_unitmem", 2)
    gone = {name: ~masks[f"{name}.weight"].flatten(1).any(1) for name in ("features.0", "features.3")}
    features: Any = model.get_submodule("features")
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = features[2](features[1](features[0](x)))
        second = features[5](features[4](features[3](first)))
    assert not first[:, gone["features.0"]].any()
    assert not second[:, gone["features.3"]].any()
    assert first.any()


def test_sparsity_is_what_was_achieved(finished: Path) -> None:
    """[000-05] [000-15] [7.20] Within one unit of the target, and never the nominal number; the gap is recomputed."""
    for variant in OF_UNITS:
        rows = table(finished / f"seed-1/{variant}/pruning_results.csv")
        assert [int(row["iteration"]) for row in rows] == [0, 1, 2]
        assert [float(row["sparsity"]) for row in rows] == pytest.approx([100 * n / UNITS for n in REMOVED])
        for row, nominal in zip(rows, (20, 40, 50), strict=True):
            assert abs(float(row["sparsity"]) - nominal) <= 100 / UNITS
    split = digits()
    rows = table(finished / "seed-1/low_unitmem/pruning_results.csv")
    model = network_of(finished, "low_unitmem/round-02")
    train, test = (
        100 * evaluate(model, [part.batch(torch.arange(len(part)))], topk=(1,)).top[1]
        for part in (split.train, split.test.open())
    )
    assert float(rows[1]["train_acc"]) == pytest.approx(train)
    assert float(rows[1]["test_acc"]) == pytest.approx(test)
    assert float(rows[1]["generalization_gap"]) == pytest.approx(train - test)
    parameters = list(model.parameters())
    zeros = sum(int((p == 0).sum()) for p in parameters) / sum(p.numel() for p in parameters)
    assert float(rows[1]["weight_sparsity"]) == pytest.approx(100 * zeros)
    overall = [row for row in table(finished / "pruning_results.csv") if row["strategy"] == "low_unitmem"]
    assert [float(row["unit_sparsity"]) for row in overall] == pytest.approx([0, *(n / UNITS for n in REMOVED)])
    matched = [row for row in table(finished / "pruning_results.csv") if row["strategy"] == "magnitude"]
    assert {row["unit_sparsity"] for row in matched} == {""}


def test_units_go_inside_one_training_too(finished: Path) -> None:
    """The masks of the last event hold, and what went is recorded."""
    masks = Masks.load(finished / "seed-1/gradual/training/masks.safetensors")
    recorded = read_pruned_indices(finished / "seed-1/gradual/pruned_indices.json")
    model = network_of(finished, "gradual/training")
    assert list(recorded) == [1]
    assert sum(len(numbers) for numbers in recorded[1].values()) == round(0.3 * UNITS)
    for name, numbers in recorded[1].items():
        assert set((~masks[f"{name}.weight"].flatten(1).any(1)).nonzero().flatten().tolist()) == set(numbers)
        assert not model.get_parameter(f"{name}.weight")[numbers].any()


# ---------------------------------------------------------------- the files


def test_scores_and_images_of_every_level(finished: Path) -> None:
    """[1.3] [000-01] [000-02] Rows in the order of units; images under their numbers in the data set."""
    names = {"features.0": 6, "features.3": 8, "hidden": 10}
    looked_at = read_index(finished / "seed-1/low_unitmem/indices.txt")
    train = digits().train
    assert train.positions is not None
    known = set(train.positions.tolist())
    for variant, width in (("low_unitmem", 2), ("outlier", 3)):
        levels = read_memorization(finished / f"seed-1/{variant}/Avg_UnitMems_perlevel.json")
        assert list(levels) == [0, 1, 2]
        for level, layers in levels.items():
            assert {name: len(rows) for name, rows in layers.items()} == names
            rows = [row for rows in layers.values() for row in rows]
            assert {len(row) for row in rows} == {width}
            assert all(0 <= row[0] <= 1 for row in rows)
            assert {image for row in rows for image in row[1:]} <= set(looked_at[level]) <= known
    assert [len(numbers) for numbers in looked_at.values()] == [40, 40, 40]
    assert looked_at[0] != looked_at[1]


def test_scores_are_those_that_were_pruned_by(finished: Path) -> None:
    """[000-04] At level 0 the units with the lowest of the recorded scores went, of all layers together."""
    scores = read_memorization(finished / "seed-1/low_unitmem/Avg_UnitMems_perlevel.json")[0]
    pruned = read_pruned_indices(finished / "seed-1/low_unitmem/pruned_indices.json")[0]
    went = sorted(scores[name][unit][0] for name, units in pruned.items() for unit in units)
    assert went == sorted(row[0] for rows in scores.values() for row in rows)[: REMOVED[0]]


def test_norms_are_of_the_weights_that_were_pruned(finished: Path) -> None:
    """[1.3] [000-07] Level k is measured on what level k - 1 left."""
    levels = read_l1_scores(finished / "seed-1/l1_filter/l1_scores.json")
    for level, before in ((0, "dense"), (2, "l1_filter/round-02")):
        weight = network_of(finished, before).get_parameter("features.3.weight").detach()
        expected = weight.double().abs().flatten(1).sum(1).tolist()
        assert [levels[level]["features.3"][unit] for unit in range(8)] == pytest.approx(expected)
    assert not (finished / "seed-1/random/l1_scores.json").exists()
    assert not (finished / "seed-1/random/Avg_UnitMems_perlevel.json").exists()
    assert not (finished / "seed-1/magnitude/pruned_indices.json").exists()


def test_a_run_that_was_cut_gives_the_same_files(finished: Path, tmp_path: Path) -> None:
    """[000-10] [000-06] [7.24] Taken up at level 1, and carried out anew, bit for bit."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    root = tmp_path / finished.name
    shutil.copytree(finished, root)
    cut = [
        root / f"seed-1/{variant}/{name}"
        for variant in ("low_unitmem", "magnitude")
        for name in ("round-02", "round-03")
    ]
    for directory in cut:
        shutil.rmtree(directory)
    shutil.rmtree(root / "seed-1/random")
    assert run_recipe(path, [f"output={tmp_path}"], quiet=True) == root
    files = [
        file.relative_to(finished) for file in finished.rglob("*") if file.suffix in (".json", ".txt", ".safetensors")
    ]
    compared = [file for file in files if file.parts[0] == "seed-1" and file.name != "done.json"]
    assert len(compared) > 50
    for file in compared:
        assert (finished / file).read_bytes() == (root / file).read_bytes(), file


# ---------------------------------------------------------------- matched


def test_matched_magnitude_removes_as_many_weights(finished: Path) -> None:
    """[000-08] At every level exactly as many as physical removal of the other variant's units takes away."""
    for level in range(3):
        masks = masks_of(finished, "low_unitmem", level)
        model = network_of(finished, "dense")
        shrunk = sw.shrink(model, torch.zeros(1, 1, 8, 8), masks=masks)
        matched = masks_of(finished, "magnitude", level)
        assert matched.removed == weights_of(model) - weights_of(shrunk.model)
        assert matched.removed == weights_removed(model, masks)
        assert set(matched) == {"features.0.weight", "features.3.weight", "hidden.weight"}
        if level:
            earlier = masks_of(finished, "magnitude", level - 1)
            assert all(not bool((matched[name] & ~mask).any()) for name, mask in earlier.items())


def weights_of(model: nn.Module) -> int:
    """Entries of filters and matrices."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_weights_that_become_removable(shortcut: Any) -> None:
    """[000-08] [7.21] Against physical removal where rows and columns of removed units overlap, over shortcuts."""
    torch.default_generator.manual_seed(0)
    model, inputs = resnet_cifar(8, shortcut=shortcut).eval(), torch.zeros(1, 3, 32, 32)
    structure = sw.trace(model, inputs)
    masks = Masks({})
    for amount in (0.1, 0.3, 0.5):
        masks = prune_units(model, inputs, sw.Random(), amount, masks=masks, structure=structure)
        shrunk = sw.shrink(model, inputs, masks=masks, structure=structure, verify=False)
        assert weights_removed(model, masks) == weights_of(model) - weights_of(shrunk.model)


def test_what_cannot_be_matched_is_refused() -> None:
    text = "{{name: x, data: digits, model: small_conv, variants: {{one: {{}}, two: {{matched_to: {}}}}}}}"
    with pytest.raises(SparsewoodError, match="'two', matched_to: Unknown variant 'three'"):
        parse_recipe(text.format("three"))
    with pytest.raises(SparsewoodError, match="takes its masks, in the end, from itself"):
        parse_recipe(text.format("two"))
    for setting in ("granularity: Filter", "granularity: Coupled", "unit: epoch", "scope: {fc: 0.5}"):
        with pytest.raises(SparsewoodError, match="matched_to"):
            parse_recipe(text.format(f"one, pruning: {{{setting}}}"))


def test_rounds_that_the_other_does_not_have_are_found_before(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    levels = "variants.magnitude.pruning.schedule={name: Levels, amounts: [0.1, 0.2, 0.3, 0.4]}"
    with pytest.raises(SparsewoodError, match=r"matched_to: 'low_unitmem' has no masks of rounds \[4\]"):
        run_recipe(path, [f"output={tmp_path}", levels, "variants.magnitude.pruning.rounds=4"], quiet=True)


def test_hashes_know_what_a_variant_is_matched_to() -> None:
    text = "{{name: x, data: digits, model: small_conv, variants: {{one: {{}}, two: {{{}}}}}}}"
    hashes = []
    for own in ("", "matched_to: one", "masks_from: one"):
        recipe = parse_recipe(text.format(own))
        hashes += [recipe.hash, cell_hash(recipe, recipe.variant("two"), 1)]
    assert len(set(hashes)) == 6
    assert parse_recipe(text.format("matched_to: null")).hash == hashes[0]


# ---------------------------------------------------------------- what a criterion sees


@dataclass(frozen=True)
class Watching(UnitCriterion):
    """Scores units by their number, and shows what it was given."""

    seen: ClassVar[list[Any]] = []
    reads_images: ClassVar[bool] = True
    images: int = 30

    def __call__(self, model: nn.Module, structure: Structure, **given: Any) -> Mapping[str, Tensor]:
        self.seen.append({**given, "model": model})
        return {group.name: torch.arange(group.units).double() for group in structure.prunable}


@dataclass(frozen=True)
class Batches(Watching):
    """The same of batches."""

    seen: ClassVar[list[Any]] = []
    reads_images: ClassVar[bool] = False


def bench_of(tmp_path: Path, text: str = RECIPE) -> Bench:
    recipe = parse_recipe(text)
    return Bench(recipe, load_split(recipe), tmp_path, 1, None, no_progress)


def carried_out(bench: Bench, pruning: Pruning) -> tuple[Masks, dict[str, Any]]:
    return choose_whole_units(bench, pruning, 1, pruning.plan, bench.network(), Masks({}))


def test_criteria_that_augment_get_pixels(tmp_path: Path) -> None:
    """[000-12] [000-01] [7.5] Un-augmented, un-normalised, of training images alone; normalised exactly once after."""
    bench = bench_of(tmp_path)
    pruning = Pruning(criterion=Watching(), granularity=Coupled(), schedule=OneShot(0.5))
    Watching.seen.clear()
    carried_out(bench, pruning)
    part = Watching.seen[0]["data"]
    assert isinstance(part, Part)
    assert len(part) == 30
    pixels = part.pixels(torch.arange(30))
    assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1
    assert part.normalization is bench.split.train.normalization
    train = bench.split.train
    assert train.positions is not None
    assert part.positions is not None
    where = [train.positions.tolist().index(position) for position in part.positions.tolist()]
    assert where == sorted(where)
    assert torch.equal(pixels, train.pixels(torch.tensor(where)))


def test_inputs_are_normalised_once(tmp_path: Path) -> None:
    """[000-12] [7.5] What reaches the network is (pixels - mean) / std of training images."""
    bench = bench_of(tmp_path)
    criterion = UnitMem(augment=None, images=20, negative="absolute")
    model, inputs = bench.network(), list[Tensor]()
    pruning = Pruning(criterion=criterion, granularity=Coupled(), schedule=OneShot(0.5))
    hook = model.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        choose_whole_units(bench, pruning, 1, pruning.plan, model, Masks({}))
    finally:
        hook.remove()
    seen = next(one for one in inputs if len(one) == 20)
    assert torch.equal(seen, bench.images(1, 20).batch(torch.arange(20))[0])


def test_other_criteria_get_batches(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    pruning = Pruning(criterion=Batches(), granularity=Coupled(), schedule=OneShot(0.5), score_batches=2)
    Batches.seen.clear()
    masks, notes = carried_out(bench, pruning)
    batches: Iterable[Any] = Batches.seen[0]["data"]
    assert [len(images) for images, _ in batches] == [128, 128]
    assert notes["units"] - notes["left"] == UNITS // 2
    assert "memorization" not in notes
    assert "l1" not in notes
    assert "classifier.weight" in masks


def test_the_network_scored_is_the_one_that_is_left(tmp_path: Path) -> None:
    """[7.10] Earlier masks hold while it is scored, and its random state is left alone."""
    bench = bench_of(tmp_path)
    pruning = Pruning(
        criterion=UnitMem(augment=None, images=20), granularity=Coupled(), schedule=Levels([0.25, 0.5]), rounds=2
    )
    model, structure = bench.network(), bench.structure(bench.network())
    first, _ = choose_whole_units(bench, pruning, 1, pruning.plan[:1], model, Masks({}))
    second, notes = choose_whole_units(bench, pruning, 2, pruning.plan[1:], model, first)
    left = units_left(structure, second)
    assert sum(int(one.sum()) for one in left.values()) == notes["left"] == 12
    for name, before in units_left(structure, first).items():
        assert not (left[name] & ~before).any()
        layer = {"features.0": "features.0", "features.3": "features.3", "hidden": "hidden"}[name]
        assert [notes["memorization"][layer][unit][0] for unit in np.flatnonzero(~before)] == [0.0] * int(
            (~before).sum()
        )


# ---------------------------------------------------------------- what is refused, names of older scripts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": UnitMem()}, r"the granularity must be Coupled\(\)"),
        ({"select": "highest"}, "is for units of the network's structure"),
        ({"select": "best", "granularity": Coupled()}, "select must be one of lowest, highest, hybrid"),
        ({"granularity": Coupled(), "min_units": 0}, "min_units must be at least 1"),
    ],
)
def test_prunings_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        Pruning(**options)


def test_choosing_inside_parameters_is_refused() -> None:
    pruning = Pruning(granularity=Coupled())
    with pytest.raises(SparsewoodError, match="prune_units"):
        pruning.choose(nn.Linear(2, 2), pruning.plan[0], Masks({}))


def test_a_pruner_wants_the_structure() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    pruning = Pruning(granularity=Coupled(), schedule=OneShot(0.5), unit="step", start=1)
    with pytest.raises(SparsewoodError, match=r"structure=sparsewood\.trace"):
        sw.Pruner(model, optimizer, pruning)
    structure = sw.trace(model, torch.ones(1, 2))
    pruner = sw.Pruner(model, optimizer, pruning, structure=structure)
    for _ in range(4):
        model(torch.ones(3, 2)).square().sum().backward()
        optimizer.step()
        pruner.step()
    masks = pruner.finish()
    assert units_left(structure, masks)["0"].sum() == 2
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply_masks(model, masks)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_names_of_older_scripts() -> None:
    """[1.2] Methods by their names in the original, with what they need."""
    recipe = parse_recipe(RECIPE)
    for method, names in (
        ("mag_pruning", ["magnitude", "low_unitmem"]),
        ("prune_random", ["random"]),
        ("low_unitmem", ["low_unitmem"]),
        ("prune_by_unitmem", ["low_unitmem"]),
        ("prune_outlier_neuron", ["outlier"]),
        ("prune_lowest_l1", ["l1_filter"]),
    ):
        assert [variant.name for variant in chosen(recipe, Choice((method,))).variants] == names
    with pytest.raises(SparsewoodError, match="Unknown method of recipe units 'high_unitmem'"):
        chosen(recipe, Choice(("prune_by_unitmem",), "highest"))
    changed = chosen(recipe, Choice(augmentations=3, batch_size=7))
    criterion: Any = changed.variant("low_unitmem").pruning.criterion
    assert (criterion.augmentations, criterion.batch_size) == (3, 7)
    assert changed.variant("random") == recipe.variant("random")
    with pytest.raises(SparsewoodError, match="no variant has one"):
        chosen(recipe, Choice(("random",), augmentations=3))


def test_levels_of_older_scripts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """[1.2] [000-05] `--x 5` are the 18 levels; `--lvl 0` reads weights."""
    from sparsewood.run.cli import main

    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    arguments = ["run", str(path), "--plan", "--pruner", "prune_random", "--x", "5", "--dir", str(tmp_path)]
    assert main([*arguments, "--lvl", "-1"]) == 0
    assert "18      sparsity 0.6028" in capsys.readouterr().out
    assert main([*arguments, "--lvl", "0"]) == 2
    assert "--init-model" in capsys.readouterr().err
    assert main([*arguments, "--lvl", "0", "--init_model", "w.safetensors", "--no_augs", "5"]) == 2
    assert "no variant has one" in capsys.readouterr().err


def test_what_is_noted_is_json(finished: Path) -> None:
    """[7.25] Plain numbers, no pickles."""
    notes = json.loads((finished / "seed-1/low_unitmem/round-01/units.json").read_text())
    assert (notes["units"], notes["left"]) == (UNITS, UNITS - REMOVED[0])
