"""Documentation does what it says: every Python block and every example runs, every documented command exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(sparsewood [^#\n]*)", re.MULTILINE)
INLINE = re.compile(r"`(sparsewood [^`\n]*)`")
MAKE = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)


def blocks(document: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(document.read_text()) if kind == language]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_python_blocks_run_in_order(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a module of its own: dataclasses and the contracts of `sparsewood.testing` look for that of a class."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("document")
    monkeypatch.setitem(sys.modules, "document", module)
    for code in blocks(document, "python"):
        exec(compile(code, str(document), "exec", dont_inherit=True), vars(module))
    assert document.read_text().count("```") % 2 == 0


def test_there_is_something_to_run() -> None:
    assert len(blocks(ROOT / "README.md", "python")) >= 2
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run_and_print(example: Path) -> None:
    """In processes of their own, as they are meant to be run: the libraries of some set variables and seeds."""
    ran = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, check=False, timeout=240)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()


def documented_commands() -> list[str]:
    found: set[str] = set()
    for document in DOCUMENTS:
        found.update(command.strip() for code in blocks(document, "") for command in COMMAND.findall(code))
        found.update(INLINE.findall(document.read_text()))
    return sorted(found)


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_are_understood(command: str, tmp_path: Path) -> None:
    """[7.19] Training commands are run with --dry-run, the others as they stand."""
    words = command.split()[1:]
    # tests/run/test_shipped_recipes.py and test_shipped_grids.py run each of them with --dry-run
    if words[0] in ("run", "sweep") and len(words) == 2:
        assert (ROOT / words[1]).is_file()
        return
    if words[0] in ("demo", "run"):
        words.append("--dry-run")
    if words[0] in ("run", "shrink", "sensitivity"):
        if not words[1].startswith("recipes/digits") and not os.environ.get("SPARSEWOOD_DATA"):
            pytest.skip("the environment variable SPARSEWOOD_DATA does not say where the data sets are")
        shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    ran = subprocess.run(
        [sys.executable, "-m", "sparsewood", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()


def test_make_targets_named_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for path in DOCUMENTS for name in MAKE.findall(path.read_text())}
    assert {"demo", "test", "check"} <= named <= targets
