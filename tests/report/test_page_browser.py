"""The page in a browser, opened from disk without a network. Skipped where there is no browser to drive."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sparsewood.report.fronts import pareto_front
from sparsewood.report.page import write_page
from sparsewood.report.page.points import AXES, points_of
from sparsewood.report.study import LayerSparsity, Overlap, Study, UnitMap

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome is installed"),
]
studies = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("studies.py"))))
HOSTILE = "</script><img src=x onerror=\"document.title='run'\"><b>%{x}</b>"
PARTS = ("layers", "units", "structure", "scores", "overlap", "sensitivity", "memorization", "training")
TRACES = "(at) => document.querySelectorAll('#accuracy .plot')[at].data.map((trace) => trace.name)"

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(studies.large_study(), tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """A function that opens a file; afterwards, nothing may have failed and nothing been asked of a network."""
    contexts, trouble, asked = [], [], []

    def opening(path: Path, **options: Any) -> Any:
        context = browser.new_context(**{"offline": True, "viewport": {"width": 1300, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: trouble.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield opening
    for context in contexts:
        context.close()
    assert not trouble
    assert all(address.startswith(("file:", "data:", "blob:")) for address in asked), asked


def show_charts(page: Any, count: int = 3) -> None:
    page.evaluate("document.getElementById('accuracy').scrollIntoView({behavior: 'instant'})")
    for chart in range(count):
        page.locator("#accuracy .plot").nth(chart).locator(".main-svg").first.wait_for()


def column(page: Any, table: str, number: int) -> list[str]:
    return page.locator(f"#{table} tbody tr td:nth-child({number})").all_inner_texts()


def colors_in(path: Path) -> int:
    from matplotlib import image

    pixels = (255 * image.imread(str(path))[..., :3]).astype(np.uint32)
    return len(np.unique(pixels @ np.array([65536, 256, 1], np.uint32)))


def test_axes_are_chosen_and_methods_switched_off_for_all_charts(opened: Open, report: Path) -> None:
    page = opened(report)
    show_charts(page)
    title = "() => document.querySelector('#accuracy .plot').layout.xaxis.title.text"
    for axis in AXES:
        page.click(f"#accuracy button[data-value={axis.key}]")
        assert page.evaluate(title) == axis.label
        assert page.locator("#accuracy button[aria-pressed=true]").first.inner_text() == axis.label
    page.click("#accuracy >> text=linear")
    assert page.evaluate("() => document.querySelector('#accuracy .plot').layout.xaxis.type") == "linear"
    before = page.locator("#means tbody tr").count()
    page.uncheck("input[data-series=SNIP]")
    for chart in range(3):
        assert "SNIP" not in page.evaluate(TRACES, chart)
        assert "SynFlow" in page.evaluate(TRACES, chart)
    assert page.locator("#means tbody tr").count() == before - 18
    page.click("text=Controls only")
    assert not set(page.evaluate(TRACES, 0)) & set(studies.METHODS)
    assert {"random", "dense"} <= set(page.evaluate(TRACES, 0))
    page.click(".legend >> text=None")
    page.click(".legend >> text=All")
    page.click("#accuracy button[data-value=compression]")
    assert set(studies.METHODS) <= set(page.evaluate(TRACES, 0))


def test_the_front_is_that_of_what_is_shown(opened: Open, report: Path) -> None:
    page = opened(report)
    show_charts(page)
    every = points_of(studies.large_study().rows)
    shown = [p for p in every if p.problem == studies.PROBLEMS[0]]
    for axis in (*AXES, *AXES[:4]):
        if axis is AXES[-1]:  # from here on without two, of which one is on the front
            for name in ("magnitude, global", "SNIP"):
                page.uncheck(f"input[data-series='{name}']")
                shown = [p for p in shown if p.series.name != name]
        page.click(f"#accuracy button[data-value={axis.key}]")
        drawn = page.evaluate("() => document.querySelector('#accuracy .plot').data[0].meta")
        able = [p for p in shown if p.values[axis.key]]
        numbers = [(p.values[axis.key].mean, p.values["accuracy"].mean) for p in able]  # pyright: ignore[reportOptionalMemberAccess]
        assert sorted(every.index(able[i]) for i in pareto_front(numbers, better=axis.better)) == sorted(drawn), axis


def test_every_pair_of_masks_has_its_own_chance_level(opened: Open, tmp_path: Path) -> None:
    study = studies.large_study()
    names, alike = (
        ("SNIP", "SynFlow", "random"),
        tuple(tuple(1.0 if i == j else 0.1 for j in range(3)) for i in range(3)),
    )
    chances = ((1.0, 0.05, 0.3), (0.05, 1.0, 0.2), (0.3, 0.2, 1.0))
    one = Overlap(studies.PROBLEMS[0], 2.0, "methods", "", names, alike, 0.18, chances)
    page = opened(write_page(replace(study, overlaps=[one]), tmp_path / "page.html"))
    page.click("#tab-overlap")
    plot = page.locator("#panel-overlap .plot")
    plot.locator(".main-svg").first.wait_for()
    note = page.locator("#panel-overlap .note")
    assert "would have 0.050 to 0.300, by pair" in note.inner_text()
    words = page.evaluate("() => document.querySelector('#panel-overlap .plot').data[0].hovertext")
    assert words[0][1].endswith("0.100 of what either keeps is kept by both, by chance 0.050")
    assert "chance" not in words[1][1]
    page.evaluate("() => { page.state.off.add('random'); page.changed(); }")
    assert "would have 0.050: that is the chance level" in note.inner_text()


def test_only_units_that_are_gone_look_as_such(opened: Open, tmp_path: Path) -> None:
    maps = [UnitMap("p", "m", 2.0, "fc", (0.0, 0.0001, 0.5, 1.0))]
    page = opened(write_page(Study("units", unit_maps=maps), tmp_path / "page.html"))
    page.locator("#panel-units .plot .main-svg").first.wait_for()
    scale = page.evaluate("() => document.querySelector('#panel-units .plot').data[0].colorscale")
    assert [color for place, color in scale if 100 * place <= 100 * 1e-7] == ["#D55E00", "#D55E00", "#eaf1f5"]
    assert not any(color == "#D55E00" for place, color in scale if place > 1e-7)


def test_names_of_hundreds_of_layers_do_not_hide_one_another(opened: Open, tmp_path: Path) -> None:
    layers = [LayerSparsity("p", "m", 2.0, f"layer{number}.weight", 10, 0.5) for number in range(300)]
    page = opened(write_page(Study("layers", layers=layers), tmp_path / "page.html"))
    page.locator("#panel-layers .plot .main-svg").first.wait_for()
    boxes = [one.bounding_box() for one in page.locator("#panel-layers .ytick text").all()]
    assert 40 < len(boxes) < 100
    places = sorted(box["y"] for box in boxes if box)
    assert min(b - a for a, b in pairwise(places)) > 10
    names = {
        "layer4.2.conv3.weight": "layer4.2.conv3",
        "fc.weight": "fc.weight",
        "a.b.block.conv1.weight": "\u2026b.block.conv1",
    }
    assert [page.evaluate("(name) => page.tail(name, 14)", name) for name in names] == list(names.values())
    gaps = [page.evaluate("(count) => page.gap(count, 1250)", count) for count in (4, 300, 1000)]
    assert gaps == [2, 1, 0], "what is between fields must not hide them"


def test_tables_are_sorted_filtered_and_copied(opened: Open, report: Path) -> None:
    page = opened(report)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    heading = page.locator("#means th[data-key=accuracy]")
    assert heading.get_attribute("aria-sort") == "none"
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    rising = [float(text.split()[0]) for text in column(page, "means", 6)]
    assert heading.get_attribute("aria-sort") == "ascending"
    assert rising == sorted(rising)
    page.keyboard.press("Enter")
    assert [float(text.split()[0]) for text in column(page, "means", 6)] == rising[::-1]
    assert heading.get_attribute("aria-sort") == "descending"
    page.click("#means th[data-key=amount] button")
    assert [float(text[:-1]) for text in column(page, "means", 4)][:4] == [1, 1, 1, 2]
    page.fill("#means input[type=search]", "synflow lenet 8\u00d7")
    assert set(column(page, "means", 2)) == {"SynFlow", "random, shares of SynFlow"}
    page.click("#means >> text=Copy as CSV")
    page.wait_for_selector("#means >> text=Copied")
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[0].startswith("problem,method,role,of,amount,seeds,accuracy,accuracy_std")
    assert len(lines) == 3
    page.click("#means >> text=Copy as Markdown")
    page.wait_for_selector("#means .group button:nth-child(2):has-text('Copied')")
    assert "The tables are not complete" in page.evaluate("navigator.clipboard.readText()")
    assert "not told apart" in column(page, "differences", 8)


def test_recipes_open_by_mouse_and_keyboard(opened: Open, report: Path) -> None:
    page = opened(report)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    show_charts(page)
    place = page.evaluate("""() => {
        const plot = document.querySelector('#accuracy .plot');
        const { xaxis, yaxis } = plot._fullLayout;
        const trace = plot.data.find((one) => one.name === 'movement');
        const box = plot.getBoundingClientRect();
        return [box.left + xaxis._offset + xaxis.d2p(trace.x[4]), box.top + yaxis._offset + yaxis.d2p(trace.y[4])];
    }""")
    page.mouse.move(*place)
    page.wait_for_selector("#accuracy .hovertext >> text=criterion: movement")
    page.mouse.click(*place)
    dialog = page.locator("dialog[open]")
    assert "movement, 32" in dialog.inner_text()
    dialog.locator("select").select_option("seed 2")
    dialog.locator("text=Copy the recipe").click()
    page.wait_for_selector("dialog >> text=Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == studies.RECIPE.format(problem=studies.PROBLEMS[0], method="movement", amount=32, seed=2)
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.locator("#means tbody button").first.focus()
    page.keyboard.press("Enter")
    assert "dense" in dialog.inner_text()


def test_every_part_is_drawn_when_it_is_opened_and_can_be_saved(opened: Open, report: Path) -> None:
    page = opened(report)
    assert page.locator("#panel-training *").count() == 0  # nothing is made before it is looked at
    for part in PARTS:
        page.click(f"#tab-{part}")
        drawn = page.wait_for_selector(f"#panel-{part} .plot .main-svg, #panel-{part} .drawing svg")
        assert drawn is not None
        assert page.locator(f"#tab-{part}").get_attribute("aria-selected") == "true"
        for name in ("PNG", "SVG"):
            with page.expect_download() as waiting:
                page.locator(f"#panel-{part} button", has_text=name).first.click()
            saved = Path(waiting.value.path())
            assert waiting.value.suggested_filename.endswith(f".{name.lower()}")
            assert saved.read_bytes()[:4] == (b"\x89PNG" if name == "PNG" else b"<svg")
    assert page.locator("#panel-training .plot").first.evaluate("(plot) => plot.data.length") == 6


def test_the_keyboard_reaches_everything(opened: Open, report: Path) -> None:
    page = opened(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.focus("#tab-layers")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-units"
    assert page.locator("#panel-units").is_visible()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.id") == "tab-training"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "panel-training"
    page.focus("input[data-series=SNIP]")
    page.keyboard.press("Space")
    assert not page.is_checked("input[data-series=SNIP]")
    assert page.evaluate("document.activeElement.dataset.series") == "SNIP"
    style = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(style) == "solid"


def test_light_dark_and_remembered(opened: Open, report: Path, tmp_path: Path) -> None:
    page = opened(report, color_scheme="dark")
    theme, ground = "document.documentElement.dataset.theme", "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(theme) == "dark"
    show_charts(page)
    paper = "() => document.querySelector('#accuracy .plot').layout.paper_bgcolor"
    dark = (page.evaluate(ground), page.evaluate(paper))
    page.click("#theme")
    assert page.evaluate(theme) == "light"
    light = (page.evaluate(ground), page.evaluate(paper))
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    for name in ("light", "dark"):
        page.screenshot(path=tmp_path / f"{name}.png")
        assert colors_in(tmp_path / f"{name}.png") > 200
        page.click("#theme")
    page.reload()
    assert page.evaluate(theme) == "light"


def test_a_phone_scrolls_down_only(opened: Open, report: Path, tmp_path: Path) -> None:
    page = opened(report, viewport={"width": 375, "height": 800}, is_mobile=True, has_touch=True)
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    show_charts(page, count=1)
    for part in PARTS:
        page.click(f"#tab-{part}")
        page.wait_for_selector(f"#panel-{part} .plot .main-svg, #panel-{part} .drawing svg")
        assert page.evaluate(overflow) <= 0, part
        assert page.evaluate("window.innerWidth") == 375, part
    page.screenshot(path=tmp_path / "phone.png")
    assert colors_in(tmp_path / "phone.png") > 100


def test_hostile_names_are_text_in_charts_and_tables(opened: Open, tmp_path: Path) -> None:
    rows = [replace(one, method=HOSTILE, problem=HOSTILE, recipe=HOSTILE) for one in map(studies.row, ["a"], [4.0])]
    page = opened(write_page(Study("names", rows), tmp_path / "report.html"))
    show_charts(page, count=1)
    assert page.title() == "names"
    assert page.locator("img").count() == 0
    assert column(page, "means", 2) == [HOSTILE]
    page.locator("#means tbody button").click()
    assert page.locator("dialog pre").inner_text() == HOSTILE


def test_an_empty_study_opens(opened: Open, tmp_path: Path) -> None:
    page = opened(write_page(Study("nothing"), tmp_path / "report.html"))
    assert "There is nothing to show" in page.locator("main").inner_text()
    assert page.locator("main section").count() == 1


def test_controls_of_single_methods_are_off_where_there_are_very_many_lines(opened: Open, tmp_path: Path) -> None:
    rows = [studies.row(name, amount) for name in "abcdefgh" for amount in (2.0, 4.0)]
    rows += [
        studies.row(f"{control}_of_{name}", 2.0, role="control", of=name)
        for name in "abcdefgh"
        for control in ("random", "scratch")
    ]
    page = opened(write_page(Study("many", rows=rows), tmp_path / "many.html"))
    show_charts(page, 1)
    boxes = page.locator(".legend input")
    assert boxes.count() == 24
    assert page.locator(".legend input:checked").count() == 8
    page.click(".legend >> text=All")
    assert page.locator(".legend input:checked").count() == 24
    page.click("text=Without controls of single methods")
    assert page.locator(".legend input:checked").count() == 8
