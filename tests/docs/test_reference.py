"""Pages made from docstrings: what they say is shown as it stands, and their examples run."""

from __future__ import annotations

import doctest
from pathlib import Path
from types import ModuleType
from typing import Any

import docstrings
import objects
import pytest
import reference
import snippets

from sparsewood.run.catalogue import KINDS, components
from sparsewood.run.recipe import parse_recipe
from sparsewood.run.shrink_recipe import parse_shrink_recipe

ROOT = Path(__file__).parents[2]
SINGLE = [(kind, name) for kind in reference.SINGLE for name in components(kind)]
SECTIONS = {
    "data": "data: digits",
    "model": "model: small_conv",
    "training": "training: {epochs: 2}",
    "retraining": "retraining: {epochs: 1}",
    "pruning": "pruning: {schedule: {name: OneShot, amount: 0.5}}",
}


@pytest.mark.parametrize(("kind", "name"), SINGLE)
def test_recipes_on_the_pages_are_understood(kind: str, name: str) -> None:
    recipe = parse_recipe(snippets.recipe_for(kind, name, components(kind)[name]))
    assert type(recipe.variants[0].pruning.criterion).__name__ == name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "name"), SINGLE)
def test_python_on_the_pages_runs(kind: str, name: str) -> None:
    names: dict[str, Any] = {}
    exec(snippets.code_for(kind, name, components(kind)[name]), names)
    assert names["masks"].removed > 0


@pytest.mark.parametrize("kind", sorted(snippets.FRAGMENTS))
def test_fragments_of_recipes_are_understood(kind: str) -> None:
    fragment = snippets.FRAGMENTS[kind]
    key = fragment.partition(":")[0]
    sections = {**SECTIONS, key: fragment}
    if key in ("dynamics", "shrink"):
        del sections["pruning"]
    text = "\n".join(["name: page", *sections.values()])
    assert parse_shrink_recipe(text) if key == "shrink" else parse_recipe(text)


def test_components_are_written_as_a_recipe_reads_them() -> None:
    assert snippets.written("Levels", {"amounts": [0.5, 0.9]}) == "{name: Levels, amounts: [0.5, 0.9]}"
    assert snippets.written("Named", {"amounts": {"a.*": 0.5}}) == '{name: Named, amounts: {"a.*": 0.5}}'


def test_every_kind_has_an_introduction_and_a_page() -> None:
    pages = reference.component_pages(reference.places())
    assert set(KINDS) <= set(snippets.INTRODUCTIONS)
    for kind in KINDS:
        page = pages[f"reference/{kind}/index.md" if kind in reference.SINGLE else f"reference/{kind}.md"]
        assert all(f"`{name}`" in page for name in components(kind))


def test_docstrings_are_shown_as_they_stand() -> None:
    doc = """score = |w| * <x>_j

    Some `code_x`, a [bracket], https://arxiv.org/abs/1234.5678. And
    more.

    Args:
        one, two: what they are,
            on two lines.
    * an item
      goes on
    Source: a paper.

    >>> 1 + 1  # doctest: +SKIP
    2
    """
    lines = [line.removeprefix("    ") for line in doc.splitlines()]
    text = docstrings.to_markdown("\n".join(lines), {"code_x": "x.md"}.get)
    assert text.startswith("score = &#124;w&#124; &#42; &#60;x&#62;&#95;j\n{ .formula }")
    assert "[`code_x`](x.md), a &#91;bracket&#93;, <https://arxiv.org/abs/1234.5678>. And more." in text
    assert "**Parameters**\n\n- `one`, `two`: what they are, on two lines." in text
    assert "- an item goes on" in text
    assert "**Source:** a paper." in text
    assert "```pycon\n>>> 1 + 1\n2\n```" in text


@pytest.mark.parametrize("module", [docstrings, snippets], ids=lambda module: module.__name__)
def test_examples_in_the_hooks_hold(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_signatures_name_defaults_without_addresses() -> None:
    def example(self: object, a: int, *, how: Any = print, many: int = 3) -> str:
        del self, a, how
        return str(many)

    assert objects.signature("x.example", example, method=True) == (
        "```python\nx.example(a: int, *, how: Any = print, many: int = 3) -> str\n```"
    )


def test_links_are_relative_and_no_page_links_to_itself() -> None:
    link = reference.linker("reference/criteria/A.md", {"A": "reference/criteria/A.md", "B": "reference/rates.md#B"})
    assert (link("A"), link("B"), link("C")) == (None, "../rates.md#B", None)
