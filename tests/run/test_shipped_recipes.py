"""The recipes that come with the project are right, and each goes through one batch where its data is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsewood.run.command import run_recipe
from sparsewood.run.recipe import effective, load_recipe, parse_recipe
from sparsewood.run.shrink_command import shrink_recipe
from sparsewood.run.shrink_recipe import effective_shrink_recipe, load_shrink_recipe, parse_shrink_recipe

ALL = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SHRINKING = [path for path in ALL if path.stem.endswith("_shrink")]
RECIPES = [path for path in ALL if path not in SHRINKING]


# A recipe of more than two hundred trainings takes two minutes even dry: two of its 18 levels do here, and a hundred of
# ten thousand iterations.
FEWER = {
    "cifar10_resnet20_unitmem": (
        "training.batch_size=16", "pruning.schedule.amounts=[0.05, 0.0975]", "pruning.rounds=2",
    ),
    "mnist_mlp7_isometry": (
        "variants.isometry.pruning.recovery.iterations=100", "variants.random_isometry.pruning.recovery.iterations=100",
    ),
}  # fmt: skip


def test_there_are_some() -> None:
    assert len(RECIPES) >= 3
    assert len(SHRINKING) >= 3


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_read_and_named_after_their_data(path: Path) -> None:
    recipe = load_recipe(path)
    assert path.stem == recipe.name
    assert path.stem.startswith(f"{recipe.data.name}_")
    assert parse_recipe(effective(recipe)) == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_dry_run(path: Path, tmp_path: Path) -> None:
    if not path.stem.startswith("digits") and not os.environ.get("SPARSEWOOD_DATA"):
        pytest.skip("the environment variable SPARSEWOOD_DATA does not say where the data sets are")
    root = run_recipe(path, [f"output={tmp_path}", *FEWER.get(path.stem, ())], dry_run=True, quiet=True)
    assert (root / "results.csv").stat().st_size > 100


@pytest.mark.parametrize("path", SHRINKING, ids=lambda path: path.stem)
def test_shrink_recipes_are_read_and_named_after_their_data(path: Path) -> None:
    recipe = load_shrink_recipe(path)
    assert path.stem == recipe.name
    assert recipe.data is not None
    assert path.stem.startswith(f"{recipe.data.name}_")
    assert parse_shrink_recipe(effective_shrink_recipe(recipe)) == recipe


@pytest.mark.parametrize("path", SHRINKING, ids=lambda path: path.stem)
def test_preview(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not path.stem.startswith("digits") and not os.environ.get("SPARSEWOOD_DATA"):
        pytest.skip("the environment variable SPARSEWOOD_DATA does not say where the data sets are")
    shrink_recipe(path, [f"output={tmp_path}"], preview=True)
    assert "Nothing was changed or written." in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
