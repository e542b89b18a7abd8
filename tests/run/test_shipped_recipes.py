"""The recipes that come with the project are right, and each goes through one batch where its data is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsewood.run.command import run_recipe
from sparsewood.run.recipe import effective, load_recipe, parse_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_there_are_some() -> None:
    assert len(RECIPES) >= 3


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
    root = run_recipe(path, [f"output={tmp_path}"], dry_run=True, quiet=True)
    assert (root / "results.csv").stat().st_size > 100
