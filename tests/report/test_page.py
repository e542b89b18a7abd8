"""The page as text: what it must never say, and that names cannot become markup."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparsewood.errors import OutputError, SparsewoodError
from sparsewood.report.page import page_text, write_page
from sparsewood.report.page.content import content
from sparsewood.report.page.document import SCRIPTS
from sparsewood.report.page.points import AXES
from sparsewood.report.study import Failure, Memorization, Study

ASSETS = resources.files("sparsewood.report.page") / "assets"
HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>"

studies = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("studies.py"))))
row = studies.row


class Page(HTMLParser):
    """What a browser would make of the text: elements with their attributes, visible words, the study."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.data: dict[str, Any] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = "study" if ("id", "study") in attrs else tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "study":
            self.data = json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))
        elif not self._inside:
            self.words.append(data)

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def visible(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_names_recipes_and_errors_are_never_markup() -> None:
    memorization = Memorization(HOSTILE, HOSTILE, {HOSTILE: (0.5,)}, {HOSTILE: ((0, (0.1, 0.2)),)})
    study = Study(
        HOSTILE,
        [row(HOSTILE, problem=HOSTILE, recipe=HOSTILE, of=HOSTILE, hash=HOSTILE)],
        failures=[Failure(HOSTILE, HOSTILE, 2.0, 0, HOSTILE)],
        checklist=[replace(item, question=HOSTILE, reason=HOSTILE) for item in studies.checklist()],
        memorization=[memorization],
        about={HOSTILE: HOSTILE},
        definitions={HOSTILE: HOSTILE},
    )
    page, harmless = Page(page_text(study)), Page(page_text(replace(study, title="harmless")))
    assert page.tags == harmless.tags
    assert "img" not in page.tags
    assert page.visible.count("onerror") >= 8  # it is there to read
    assert page.data["series"][0]["name"] == HOSTILE
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = Page(page_text(studies.large_study()))
    for tag, attributes in page.elements:
        assert "src" not in attributes, tag
        assert re.match(r"#|data:,", attributes.get("href") or "#"), attributes
    policy = next(a["content"] or "" for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "http" not in policy
    for asset in ASSETS.iterdir():
        own = asset.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|url\((?!#)|@import|fetch\(|XMLHttpRequest|sendBeacon", own), asset.name


def test_own_files_are_all_used_short_and_ascii() -> None:
    names = {asset.name for asset in ASSETS.iterdir()}
    assert names == {*SCRIPTS, "theme.js", "page.css", "page.html.j2"}
    for asset in ASSETS.iterdir():
        assert asset.read_text().isascii(), asset.name
        assert len(asset.read_text().splitlines()) < 300, asset.name


def gaps() -> list[Study]:
    full = studies.large_study(amounts=(2.0,), seeds=(0,))
    whole = studies.checklist(whole=True)
    return [full, replace(full, checklist=whole), replace(full, checklist=(), failures=()), replace(full, failures=())]


@pytest.mark.parametrize("number", range(4), ids=["both", "failures", "no checklist", "checklist"])
def test_a_study_with_gaps_is_nowhere_called_complete(number: int) -> None:
    """[8.3] No table is called complete while an item is missing."""
    study = gaps()[number]
    page = Page(page_text(study))
    own = "".join(asset.read_text() for asset in ASSETS.iterdir())
    for text in (page.visible, json.dumps(page.data), own):
        assert not re.search(r"(?<!not )complete", text, re.IGNORECASE)
    assert "The tables are not complete" in page.visible
    for item in study.missing:
        assert f"{item.question}{item.reason}" in page.visible.replace(f"{item.question} ", item.question)
    for failure in study.failures:
        assert failure.error in page.visible


def test_a_study_without_gaps_is_called_complete() -> None:
    page = Page(page_text(Study("study", [row()], checklist=studies.checklist(whole=True))))
    assert "The tables are complete: all 6 items of the checklist are there, nothing failed." in page.visible
    assert "not complete" not in page.visible
    assert page.data["whole"] is True


def test_an_empty_study_says_so() -> None:
    page = Page(page_text(Study("nothing yet")))
    assert "There is nothing to show" in page.visible
    assert "The tables are not complete: there is no checklist." in page.visible
    assert "There is nothing to show" not in Page(page_text(Study("one", [row()]))).visible


def test_the_file_is_there_whole_or_not_at_all(
    tmp_path: Path, room_for: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "report.html"
    study = Study("first", [row("caf\udce9")])  # a name that is no text, as in paths of odd systems
    assert write_page(study, path, title="second") == path
    before = path.read_text(encoding="utf-8")
    assert Page(before).visible.startswith("second")
    assert before.endswith("</html>\n")
    with room_for(100_000), pytest.raises(OutputError):
        write_page(Study("third"), path)
    assert path.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("library", ["plotly", "jinja2"])
def test_a_missing_library_names_the_extra(library: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SparsewoodError, match=rf"needs {library}.*pip install 'sparsewood\[report\]'"):
        write_page(Study("study"), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_large_studies_stay_small() -> None:
    study = studies.large_study(seeds=tuple(range(11)))
    study = replace(study, curves=(list(study.curves) * 2)[:1000], overlaps=(list(study.overlaps) * 2)[:200])
    assert len(study.rows) >= 2000
    assert len(page_text(study)) < 12_000_000


def test_everything_the_study_has_is_in_the_page() -> None:
    study = studies.large_study()
    made = content(study)
    for part in ("rows", "differences", "layers", "curves", "overlaps", "histograms", "unit_maps", "sensitivity"):
        assert made[part]["length"] == len(getattr(study, part)), part
    assert [axis["key"] for axis in made["axes"]] == [axis.key for axis in AXES]
    assert "latency" not in [axis["key"] for axis in content(Study("study", [row()]))["axes"]]
    assert len(made["memorization"]) == 2
    assert len(made["networks"]) == len(study.networks)
    assert made["points"]["length"] == len({(r.problem, r.method, r.amount) for r in study.rows})
