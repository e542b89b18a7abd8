"""The recipes of the tutorials: understood, shown on their pages, and carried out in small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sparsewood.run.recipe import load_recipe

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
RECIPES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_some() -> None:
    assert len(RECIPES) >= 3


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_understood_and_shown(path: Path) -> None:
    assert load_recipe(path).name == path.stem
    pages = "\n".join(page.read_text() for page in FOLDER.glob("*.md"))
    assert f'--8<-- "tutorials/{path.name}"' in pages
    assert f"sparsewood run docs/tutorials/{path.name}\n" in pages


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_run_in_small(path: Path, tmp_path: Path) -> None:
    """One batch through every stage."""
    command = [sys.executable, "-m", "sparsewood", "run", str(path), "--dry-run", "--quiet", "--output", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert ran.returncode == 0, ran.stderr
    assert "control" in ran.stdout
