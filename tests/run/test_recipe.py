"""Recipes: one file describes an experiment, typed, with overrides; the effective one is saved (section 4.3)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sparsewood.criteria import LAMP, Magnitude
from sparsewood.data.augment import CropFlip
from sparsewood.errors import FileFormatError, SparsewoodError, UnknownName
from sparsewood.pruning.settings import Pruning
from sparsewood.recovery import FineTune
from sparsewood.run.canonical import canonical, digest
from sparsewood.run.components import RecipeError
from sparsewood.run.recipe import (
    Recipe,
    Variant,
    cell_hash,
    effective,
    load_recipe,
    parse_recipe,
    recipe_hash,
)
from sparsewood.schedules import Geometric, OneShot
from sparsewood.train.settings import Training

SMALL = "{name: small, data: digits, model: small_conv}"

LOTTERY = """\
name: lottery
description: winning tickets
data: {name: digits, validation: 0.25}
augment: {name: CropFlip, padding: 1}
model: {name: small_conv, hidden: 32}
training:
  epochs: 10
  batch_size: 60
  optimizer: {name: Adam, lr: 1.2e-3}
  rate: Constant
retraining: {epochs: 5}
pruning:
  criterion: Magnitude
  schedule: {name: Geometric, rate: 0.2}
  rounds: 5
variants:
  lottery: {}
  control: {pruning: {criterion: Random}, masks_from: lottery}
  one-shot:
    pruning: {schedule: {name: OneShot, amount: {name: Compression, ratio: 8}}, rounds: 1}
    retraining: null
    independent: true
seeds: 3
logs: [csv, tensorboard]
"""


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with components that stay as they are, so that hashes can be compared with fixed ones."""
    (tmp_path / "stand_ins.py").write_text(
        "from dataclasses import dataclass\n"
        "from sparsewood.criteria import Criterion\n"
        "from sparsewood.schedules import Schedule, OneShot\n"
        "@dataclass(frozen=True)\n"
        "class Size(Criterion):\n"
        "    power: float = 1.0\n"
        "    signed: bool = False\n"
        "    def __call__(self, inputs): return inputs.weight.abs() ** self.power\n"
        "@dataclass(frozen=True)\n"
        "class Once(Schedule):\n"
        "    sparsity: float\n"
        "    def __call__(self, rounds): return OneShot(self.sparsity)(rounds)\n"
        "def blobs(count: int = 100, noise: float = 0.1): ...\n"
        "def net(width: int, depth: int = 2): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("stand_ins", None)


def problems(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml", overrides)
    return str(caught.value)


# ---------------------------------------------------------------- reading


def test_a_small_recipe_has_all_defaults() -> None:
    recipe = parse_recipe(SMALL)
    assert (recipe.name, recipe.seeds, recipe.logs, recipe.output) == ("small", (1,), ("csv",), Path("runs"))
    assert recipe.training == Training()
    assert recipe.variants == (Variant("pruned", Pruning()),)
    assert recipe.data.build().sizes["train"] == 1079
    assert recipe.directory == Path("runs") / f"small-{recipe.hash[:12]}"


def test_a_whole_recipe() -> None:
    """[002-01] Criterion, scope, schedule and recovery are chosen each by itself."""
    recipe = parse_recipe(LOTTERY)
    lottery, control, one_shot = recipe.variants
    assert recipe.seeds == (1, 2, 3)
    assert recipe.training.optimizer.rate == 1.2e-3
    assert recipe.augment == CropFlip(padding=1)
    assert recipe.model.parameters["hidden"] == 32
    assert lottery == Variant("lottery", Pruning(schedule=Geometric(0.2), rounds=5), replace(recipe.training, epochs=5))
    assert control.masks_from == "lottery"
    assert (type(control.pruning.criterion).__name__, control.pruning.rounds) == ("Random", 5)
    assert (one_shot.independent, one_shot.retraining, one_shot.pruning.rounds) == (True, None, 1)
    assert recipe.sources(control) == (lottery,)
    assert recipe.variant("lottery") is lottery
    with pytest.raises(UnknownName, match=r"Unknown variant 'lotery'\. Did you mean 'lottery'"):
        recipe.variant("lotery")


def test_fields_of_a_variant_can_stand_at_the_top() -> None:
    base = (
        SMALL[:-1] + ", pruning: {schedule: {name: Geometric, rate: 0.5}, rounds: 4}, independent: true, only: [2, 4]}"
    )
    (variant,) = parse_recipe(base).variants
    assert (variant.name, variant.independent, variant.only) == ("pruned", True, (2, 4))
    named = parse_recipe(base[:-1] + ", variants: {a: , b: {independent: false, only: null}}}").variants
    assert [(v.name, v.independent, v.only) for v in named] == [("a", True, (2, 4)), ("b", False, None)]


def test_a_variant_changes_a_component_or_puts_another_in_its_place() -> None:
    base = (
        SMALL[:-1] + ", pruning: {recovery: {name: Rewind, step: 7}, schedule: {name: Cubic, final: 0.5, initial: 0.1}}"
    )
    recipe = parse_recipe(
        base + ", variants: {same: {pruning: {schedule: {final: 0.75}}}, other: {pruning: {schedule: "
        "{name: OneShot, amount: 3}, recovery: FineTune}}}}"
    )
    same, other = recipe.variants
    assert (same.pruning.schedule.final, same.pruning.schedule.initial) == (0.75, 0.1)  # pyright: ignore
    assert same.pruning.recovery.snapshots == (7,)
    assert (other.pruning.schedule, other.pruning.recovery) == (OneShot(3), FineTune())


def test_retraining_is_as_training_but_for_what_it_says() -> None:
    recipe = parse_recipe(SMALL[:-1] + ", training: {batch_size: 7, epochs: 3}, retraining: {epochs: 2}}")
    assert recipe.variants[0].retraining == Training(batch_size=7, epochs=2)


def test_overrides_are_applied_in_order_and_checked() -> None:
    recipe = parse_recipe(
        SMALL,
        overrides=[
            "training.epochs=3",
            "training.optimizer.lr=0.5",
            "model.hidden=8",
            "seeds=[5, 6]",
            "training.epochs=4",
        ],
    )
    assert (recipe.training.epochs, recipe.training.optimizer.rate, recipe.seeds) == (4, 0.5, (5, 6))
    assert recipe.model.parameters["hidden"] == 8
    assert problems(SMALL, "training.epochs=x") == (
        "--set training.epochs=x: training.epochs: must be a whole number. Got 'x'."
    )
    assert problems(SMALL, "training.epoch=1").startswith(
        "--set training.epoch=1: training.epoch: Unknown key 'epoch'. Did you mean 'epochs'?"
    )
    by_variant = parse_recipe(LOTTERY, overrides=["variants.control.pruning.rounds=2", "variants.new={}"])
    assert [variant.pruning.rounds for variant in by_variant.variants] == [5, 2, 1, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "r.yaml, line 1: a recipe is a mapping of 'key: value' lines. Got [1]."),
        ("{}", "r.yaml, line 1: Recipe needs 'name'"),
        ("{}", "Recipe needs 'model': a model (its name, or a mapping with 'name')."),
        (SMALL.replace("small,", "'a/b',"), "name: must be a name of at most 100 letters"),
        (SMALL.replace("digits", "digts"), "data: Unknown data set 'digts'. Did you mean 'digits'?"),
        (SMALL.replace("digits", "{validation: 0.1}"), "data: must be a data set (its name, or a mapping with 'name')"),
        (SMALL.replace("small_conv", "null"), "model: must be a model (its name, or a mapping with 'name'). Got null."),
        (SMALL[:-1] + ", augment: CropFlop}", "Unknown augmentation 'CropFlop'. Did you mean 'CropFlip'?"),
        (SMALL[:-1] + ", seeds: 0}", "seeds: must be how many seeds, from 1 to 10,000, or a list of them. Got 0."),
        (SMALL[:-1] + ", seeds: [1, 1]}", "'seeds' must be at least one, each once. Got [1, 1]."),
        (SMALL[:-1] + ", seeds: [-1]}", "seeds[0]: must be a whole number >= 0"),
        (SMALL[:-1] + ", seeds: true}", "seeds: must be a list, each a whole number >= 0"),
        (SMALL[:-1] + ", logs: [cvs]}", "logs[0]: must be 'auto' or 'csv' or 'mlflow' or"),
        (SMALL[:-1] + ", variants: [a]}", "variants: must be a mapping from names to what they change. Got ['a']."),
        (SMALL[:-1] + ", variants: {a: 3}}", "variants.a: must be a mapping of the fields of Variant. Got 3."),
        (SMALL[:-1] + ", variants: {a/b: {}}}", "variants.a/b.name: must be a name"),
        (SMALL[:-1] + ", variants: {a: {name: b}}}", "The name of a variant is its key. Got 'a' and 'b'."),
        (SMALL[:-1] + ", variants: {a: {prunning: {}}}}", "variants.a.prunning: Unknown key 'prunning'. Did you mean"),
        (SMALL[:-1] + ", variants: {a: {masks_from: b}}}", "Variant 'a', masks_from: Unknown variant 'b'"),
        (SMALL[:-1] + ", masks_from: pruned}", "Variant 'pruned' takes its masks, in the end, from itself."),
        (SMALL[:-1] + ", only: [2]}", "'only' must be rounds from 1 to 1, ascending. Got [2]."),
        (SMALL[:-1] + ", only: [0]}", "only[0]: must be a whole number >= 1. Got 0."),
        (SMALL[:-1] + ", prunning: {}}", "Unknown key 'prunning'. Did you mean 'pruning'"),
        (SMALL[:-1] + ", pruning: {schedule: {name: Geometric, rate: 2}}}", "pruning.schedule: Remaining must be"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    assert message in problems(text)


def test_a_mistake_that_variants_share_is_told_once() -> None:
    text = "name: a\ndata: digits\nmodel: small_conv\npruning:\n  rounds: x\nvariants: {a: {}, b: {}}\n"
    assert problems(text) == "r.yaml, line 5: pruning.rounds: must be a whole number. Got 'x'."


def test_files_and_their_faults(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(SMALL + "\n", encoding="utf-8")
    assert load_recipe(path, ["seeds=2"]).seeds == (1, 2)
    path.write_text("name: x\nname: y\n")
    with pytest.raises(FileFormatError, match=r"recipe\.yaml, line 2: key 'name' is there twice"):
        load_recipe(path)
    path.write_bytes(b"name: \xff\xfe")
    for file, reason in ((path, "can't decode"), (tmp_path / "none.yaml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(SparsewoodError, match=f"Cannot read recipe .*{reason}"):
            load_recipe(file)


def test_modules_beside_the_recipe_are_found(stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stand_ins / "r.yaml").write_text("{name: a, data: stand_ins:blobs, model: {name: stand_ins:net, width: 3}}")
    monkeypatch.chdir(stand_ins.parent)
    recipe = load_recipe(stand_ins / "r.yaml")
    assert dict(recipe.data.parameters) == {"count": 100, "noise": 0.1}
    assert str(stand_ins) not in sys.path


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("text", [SMALL, LOTTERY])
def test_the_effective_recipe_reads_back_to_the_same(text: str) -> None:
    """Section 4.3: the effective configuration is saved."""
    recipe = parse_recipe(text)
    written = effective(recipe)
    again = parse_recipe(written)
    assert again == recipe
    assert again.hash == recipe.hash
    assert effective(again) == written
    for name in ("batch_size: ", "protect_classifier: true", "test_batch_size: 1000", "masks_from: "):
        assert name in written


# ---------------------------------------------------------------- hashes

FIRST = "{name: a, data: stand_ins:blobs, model: {name: stand_ins:net, width: 3}}"
SECOND = """\
name: b
data: {name: stand_ins:blobs, noise: 1}
model: {name: stand_ins:net, width: 3, depth: 2}
pruning: {criterion: {name: stand_ins:Size, power: 2}, schedule: {name: stand_ins:Once, sparsity: 0.50}}
variants:
  second: {pruning: {criterion: stand_ins:Size}}
  first: {independent: true}
seeds: 2
"""


@pytest.mark.usefixtures("stand_ins")
def test_hashes_are_fixed() -> None:
    """A hash names directories of results, so it may never change for a recipe that has been run."""
    first = {"data": {"name": "stand_ins:blobs"}, "model": {"name": "stand_ins:net", "width": 3}}
    assert parse_recipe(FIRST).hash == digest(first | {"variants": {"pruned": {}}})
    assert parse_recipe(FIRST).hash == "9754fee897123955d770c354c28fd66cc81ee94d52a9e7351e7e581f560cad5d"
    once = {"name": "stand_ins:Once", "sparsity": 0.5}
    variants = {
        "first": {
            "pruning": {"criterion": {"name": "stand_ins:Size", "power": 2.0}, "schedule": once},
            "independent": True,
        },
        "second": {"pruning": {"criterion": {"name": "stand_ins:Size"}, "schedule": once}},
    }
    second = first | {"data": {"name": "stand_ins:blobs", "noise": 1.0}, "variants": variants, "seeds": [1, 2]}
    assert parse_recipe(SECOND).hash == digest(second)
    assert parse_recipe(SECOND).hash == "deebbc763714456d69d9b4724d195bf48850d5f9e2b6dc0bebb22b9b7ba106b7"


@pytest.mark.parametrize(
    ("setting", "same"),
    [
        ("name=other", True),
        ("description=words", True),
        ("output=elsewhere", True),
        ("device=cuda", True),
        ("strategy=ddp", True),
        ("threads=2", True),
        ("workers=2", True),
        ("checkpoint_every=3", True),
        ("logs=[]", True),
        ("test_batch_size=7", True),
        ("seeds=[1, 2, 3]", True),
        ("train_dense=true", True),
        ("retraining={epochs: 5, batch_size: 60}", True),
        ("variants.one-shot.retraining={epochs: 10}", True),  # what it would be anyway
        ("pruning.criterion={name: Magnitude}", True),
        ("pruning.schedule.rate=2.0e-1", True),
        ("seeds=[1, 2]", False),
        ("train_dense=false", False),
        ("weights=file.pt", False),
        ("initial=null", True),
        ("initial=Orthogonal", False),
        ("training.epochs=11", False),
        ("retraining.epochs=6", False),
        ("augment=null", False),
        ("data.validation=0.2", False),
        ("model.hidden=33", False),
        ("pruning.rounds=6", False),
        ("variants.control.independent=true", False),
        ("variants.new={}", False),
        ("devices=2", False),  # what is random is drawn by each process
    ],
)
def test_what_counts_for_the_hash(setting: str, same: bool) -> None:
    recipe, changed = parse_recipe(LOTTERY), parse_recipe(LOTTERY, overrides=[setting])
    assert (changed.hash == recipe.hash) == same


@pytest.mark.parametrize(
    ("data", "same"), [("mnist", True), ("cifar10", True), ("cub200", True), ("image_folder", False)]
)
def test_a_published_set_is_the_same_wherever_it_lies(data: str, same: bool) -> None:
    text = f"name: x\ndata: {data}\nmodel: resnet20\n"
    here, there = (parse_recipe(text, overrides=[f"data.root={root}"]) for root in ("here", "there"))
    assert (here.hash == there.hash) == same


def test_a_retraining_of_no_use_is_refused() -> None:
    text = "name: x\ndata: digits\nmodel: small_conv\nvariants:\n  a:\n    retraining: {epochs: 1}\n"
    assert parse_recipe(text).variant("a").retraining is not None
    with pytest.raises(RecipeError, match=r"line 6: variants\.a\.retraining: is of no use: Rewind"):
        parse_recipe(text + "    pruning: {recovery: Rewind}\n")


def test_the_order_of_keys_and_variants_does_not_count() -> None:
    recipe = parse_recipe(LOTTERY)
    assert recipe_hash(replace(recipe, variants=recipe.variants[::-1])) == recipe.hash
    lines = LOTTERY.splitlines(keepends=True)
    assert parse_recipe("".join([*lines[-2:], *lines[:-2]])).hash == recipe.hash


def test_cells_have_a_hash_of_their_own() -> None:
    recipe = parse_recipe(LOTTERY)
    cells = {cell_hash(recipe, variant, seed) for variant in (None, *recipe.variants) for seed in recipe.seeds}
    assert len(cells) == 12
    lottery, control, _ = recipe.variants
    fewer = parse_recipe(LOTTERY.replace("seeds: 3", "seeds: [2]").replace("name: lottery", "name: other"))
    assert cell_hash(fewer, fewer.variants[0], 2) == cell_hash(recipe, lottery, 2)
    renamed = parse_recipe(
        LOTTERY.replace("  lottery: {}", "  tickets: {}").replace("masks_from: lottery", "masks_from: tickets")
    )
    assert cell_hash(renamed, renamed.variant("control"), 1) == cell_hash(recipe, control, 1)
    source = parse_recipe(LOTTERY, overrides=["variants.lottery.pruning={criterion: LAMP}"])
    assert source.variant("lottery").pruning.criterion == LAMP()
    assert cell_hash(source, source.variant("control"), 1) != cell_hash(recipe, control, 1)
    assert cell_hash(source, source.variant("one-shot"), 1) == cell_hash(recipe, recipe.variant("one-shot"), 1)
    assert cell_hash(source, None, 1) == cell_hash(recipe, None, 1)


# ---------------------------------------------------------------- in Python


def test_recipes_made_in_python_are_checked() -> None:
    recipe = parse_recipe(SMALL)
    for change, message in (
        ({"seeds": ()}, "'seeds' must be at least one"),
        ({"variants": ()}, "'variants' must be at least one"),
        ({"variants": (Variant(), Variant())}, "each with a name of its own"),
        ({"devices": 0}, "Recipe: 'devices' must be a whole number >= 1. Got 0."),
        ({"name": "a b"}, "Recipe: 'name' must be a name"),
    ):
        with pytest.raises(SparsewoodError) as caught:
            replace(recipe, **change)
        assert message in str(caught.value)
    with pytest.raises(SparsewoodError, match="'only' must be rounds from 1 to 3, ascending"):
        Variant(pruning=Pruning(rounds=3), only=(3, 2))


def test_a_python_recipe_and_a_file_that_mean_the_same_have_one_hash() -> None:
    recipe = parse_recipe(SMALL + "\n")
    made = Recipe("else", recipe.data, recipe.model, variants=(Variant(pruning=Pruning(criterion=Magnitude())),))
    assert made.hash == recipe.hash
    assert canonical(made, Recipe) == {"data": {"name": "digits"}, "model": {"name": "small_conv"}}
