"""The page about older projects names only what is there: options, settings, components, functions. [7.19]"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sparsewood as sw
from sparsewood.run.catalogue import KINDS, components
from sparsewood.run.recipe import parse_recipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "older-projects.md").read_text()
CODE = re.compile(r"`([^`]+)`")
OPTION = re.compile(r"^([a-z]+) (--[A-Za-z-]+)$")
SETTING = re.compile(r"^[a-z_]+(\.[a-z_]+)*=.+$")
DOTTED = re.compile(r"^(sw|sparsewood)(\.[A-Za-z_]\w*)+")

BASE = """
name: base
data: digits
model: {name: small_conv, batch_norm: true}
training: {epochs: 300, batch_size: 64, optimizer: {name: SGD, lr: 0.1}}
retraining: {epochs: 1}
pruning: {schedule: {name: OneShot, amount: 0.5}, rounds: 1}
"""


def here() -> list[str]:
    """The code in the last column of every table."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| older")]
    return [code for row in rows for code in CODE.findall(row.rstrip(" |").rsplit(" | ", 1)[1])]


def codes(pattern: re.Pattern[str]) -> list[str]:
    return sorted({code for code in here() if pattern.match(code)})


def options() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for command, option in (OPTION.match(code).groups() for code in codes(OPTION)):  # type: ignore[union-attr]
        found.setdefault(command, []).append(option)
    return found


def exists(dotted: str) -> bool:
    """Whether a name such as sw.recipes.snip, or sparsewood.selectors.select_layers, leads somewhere."""
    parts = ["sparsewood", *dotted.split(".")[1:]]
    for known in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:known]))
        except ModuleNotFoundError:
            continue
        for part in parts[known:]:
            found = getattr(found, part, None)
            if found is None:
                break
        if found is not None:
            return True
    return False


def test_the_page_has_every_project_with_commands_settings_and_names() -> None:
    assert len(re.findall("^## ", PAGE, re.MULTILINE)) == 5
    assert len(options()["run"]) > 20
    assert len(codes(SETTING)) > 30
    assert len(codes(DOTTED)) > 30


@pytest.mark.parametrize("command", sorted(options()))
def test_options_are_in_the_help(command: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "sparsewood", command, "--help"], capture_output=True, text=True, check=False
    )
    words = set(re.findall(r"--[A-Za-z-]+", ran.stdout))
    assert not set(options()[command]) - words


@pytest.mark.parametrize("setting", codes(SETTING))
def test_settings_are_understood(setting: str) -> None:
    more = [setting]
    if "Soft" in setting or "Exponential" in setting or "Cubic" in setting or "Geometric" in setting:
        more.append("pruning.rounds=5")
    if "UnitMem" in setting or "select=highest" in setting:
        more.append("pruning.granularity=Coupled")
    assert parse_recipe(BASE, "<page>", more).hash


@pytest.mark.parametrize("name", codes(DOTTED))
def test_functions_exist(name: str) -> None:
    match = DOTTED.match(name)
    assert match is not None
    assert exists(match[0])


def test_components_exist() -> None:
    known = {name for kind in KINDS for name in components(kind)} | set(sw.__all__) | {"Split"}
    named = {code.split("(")[0].split(".")[0] for code in here() if re.match(r"^[A-Z][A-Za-z]+[a-z]", code)}
    assert not named - known


def test_recipes_named_on_the_page_exist() -> None:
    files = re.findall(r"recipes/[\w]+\.yaml", PAGE)
    assert len(files) > 8
    assert all((ROOT / file).is_file() for file in files)
