"""The site: it builds without a warning, every link leads somewhere, nothing is loaded from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import links
import pytest

import sparsewood as sw
from sparsewood import criteria, unit_criteria
from sparsewood.run.catalogue import KINDS, components

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("mkdocs") is None or find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: pip install 'sparsewood[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONHASHSEED": "1"}
    built = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=240)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.mark.slow
def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    assert list(links.problems(site)) == []


@pytest.mark.slow
def test_every_component_and_public_name_has_a_page(site: Path) -> None:
    for folder, names in (("criteria", criteria.__all__), ("unit-criteria", unit_criteria.__all__)):
        for name in names:
            page = (site / "reference" / folder / f"{name}.html").read_text()
            plain = re.sub(r"<[^>]*>", "", page)
            assert f"sparsewood.{folder.replace('-', '_')}.{name}(" in plain
            assert f"sparsewood list {folder}" in plain
            assert "Source:" in plain
            assert f"criterion: {name}" in plain or f"name: {name}" in plain
    pages = {path.stem for path in (site / "reference" / "api").rglob("*.html")}
    assert {name for name in sw.__all__ if not name.startswith("_")} <= pages
    for kind in KINDS:
        folder = site / "reference" / kind
        page = (folder / "index.html" if folder.is_dir() else folder.with_suffix(".html")).read_text()
        assert all(f'href="{name}.html"' in page or f'id="{name}"' in page for name in components(kind))


@pytest.mark.slow
def test_pictures_of_the_concepts_are_there_and_the_same_every_time(site: Path) -> None:
    import pictures

    for name, content in pictures.draw_all().items():
        assert (site / "images" / name).read_text() == content, name
        assert f"images/{name}" in (site / "concepts.html").read_text()


@pytest.mark.slow
def test_search_works_from_disk(site: Path) -> None:
    """The index is a script, and the frame that stands in for a worker is a file of the site."""
    assert "UnitMem" in (site / "search" / "search_index.js").read_text()
    assert (site / "javascripts" / "iframe-worker.js").is_file()
    assert "unpkg" not in (site / "index.html").read_text()


def test_the_checker_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "picture.svg").write_text("<svg/>")
    (tmp_path / "good.html").write_text('<h1 id="here">x</h1><a href="#here">x</a><img src="picture.svg">')
    assert list(links.problems(tmp_path)) == []
    bad = (
        '<a href="missing.html">x</a><a href="good.html#nowhere">x</a><img src="missing.svg"><a href="https://a.b">x</a>'
        '<script src="https://a.b/c.js"></script><link rel="stylesheet" href="//a.b/c.css">'
    )
    (tmp_path / "bad.html").write_text(bad)
    assert sorted(links.problems(tmp_path)) == [
        "bad.html: good.html#nowhere has no such anchor",
        "bad.html: loads //a.b/c.css",
        "bad.html: loads https://a.b/c.js",
        "bad.html: missing.html does not exist",
        "bad.html: missing.svg does not exist",
    ]


def test_a_site_without_pages_is_a_problem(tmp_path: Path) -> None:
    assert list(links.problems(tmp_path)) == [f"{tmp_path}: no pages"]
