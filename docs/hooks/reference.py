"""Pages about everything that `sparsewood list` shows: one for each criterion, one for each other kind."""

from __future__ import annotations

import inspect
import posixpath
from collections.abc import Mapping
from typing import Any

from docstrings import Link, escaped, first_line
from objects import described, members, parameter_table, signature, source_block, source_path
from snippets import FRAGMENTS, INTRODUCTIONS, arguments, code_for, recipe_for, written

from sparsewood.run.catalogue import ELSEWHERE, KINDS, components, kind_of

__all__ = ["SINGLE", "component_pages", "kind_title", "linker", "places"]

SINGLE = ("criteria", "unit-criteria")
"""The kinds whose components have a page each."""
FOLDER = "reference"
_TITLES = {"unit-criteria": "Criteria of units", "rates": "Learning rates", "data": "Data sets"}


def kind_title(kind: str) -> str:
    """What a page about a kind is called."""
    return _TITLES.get(kind, kind.capitalize())


def places() -> dict[str, str]:
    """Where the components are described: page, or page#section, by name. Of two with one name the first counts."""
    found: dict[str, str] = {}
    for kind in KINDS:
        for name in components(kind):
            page = f"{FOLDER}/{kind}/{name}.md" if kind in SINGLE else f"{FOLDER}/{kind}.md#{name}"
            found.setdefault(name, page)
    return found


def linker(page: str, found: Mapping[str, str]) -> Link:
    """Relative addresses, seen from `page`, of the names in `found`; a page does not link to itself."""

    def link(name: str) -> str | None:
        target = found.get(name)
        if target is None or target == page:
            return None
        path, _, section = target.partition("#")
        relative = posixpath.relpath(path, posixpath.dirname(page)) if path != page else ""
        return f"{relative}#{section}" if section else relative

    return link


def component_pages(found: Mapping[str, str]) -> dict[str, str]:
    """All pages by path; `found` says where names are described, as `places` does."""
    pages: dict[str, str] = {f"{FOLDER}/index.md": _overview()}
    for kind in KINDS:
        if kind in SINGLE:
            pages[f"{FOLDER}/{kind}/index.md"] = _index(kind)
            for name, value in components(kind).items():
                page = f"{FOLDER}/{kind}/{name}.md"
                pages[page] = _single(kind, name, value, linker(page, found))
        else:
            page = f"{FOLDER}/{kind}.md"
            pages[page] = _together(kind, linker(page, found))
    return pages


def _overview() -> str:
    rows = [
        f"| [{kind_title(kind)}]({kind}{'/index' if kind in SINGLE else ''}.md) | {len(components(kind))} "
        f"| `sparsewood list {kind}` |"
        for kind in KINDS
    ]
    return "\n".join(
        [
            "# Reference",
            "",
            "These pages are made from the docstrings of the code when the site is built: what they say is what the",
            "installed version does. Everything that a recipe can name is listed here, and by `sparsewood list`.",
            "",
            "| kind | how many | on the command line |",
            "|---|---:|---|",
            *rows,
            "",
            "The functions and classes of `import sparsewood as sw` are under [Python](api/index.md).",
            "",
        ]
    )


def _index(kind: str) -> str:
    rows = [
        f"| [`{name}`]({name}.md) | {escaped(first_line(inspect.getdoc(value) or ''))} |"
        for name, value in components(kind).items()
    ]
    return "\n".join(
        [
            f"# {kind_title(kind)}",
            "",
            INTRODUCTIONS.get(kind, ""),
            "",
            f"On the command line: `sparsewood list {kind}`.",
            "",
            "| name | score |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def _single(kind: str, name: str, value: Any, link: Link) -> str:
    table = parameter_table(value)
    parts = [
        f"# {name}",
        f"A {kind_of(kind).noun}; `sparsewood list {kind}` shows it among the others. File: `{source_path(value)}`.",
        signature(f"{kind_of(kind).module}.{name}", value),
        described(value, link),
        *(["## Parameters", table] if table else []),
        "## In Python",
        f"```python\n{code_for(kind, name, value)}\n```",
        "## In a recipe",
        "Save it as a YAML file, and give that to `sparsewood run`:" if kind in SINGLE else "",
        f"```yaml\n{recipe_for(kind, name, value)}\n```",
        source_block(value),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _together(kind: str, link: Link) -> str:
    parts = [f"# {kind_title(kind)}", INTRODUCTIONS.get(kind, ""), f"On the command line: `sparsewood list {kind}`."]
    if kind in FRAGMENTS:
        parts += ["In a recipe:", f"```yaml\n{FRAGMENTS[kind]}\n```"]
    for name, value in components(kind).items():
        parts.append(_entry(kind, name, value, link))
    for name, text in ELSEWHERE.get(kind, {}).items():
        parts.append(f"## {escaped(name)}\n\n{escaped(text, link)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _entry(kind: str, name: str, value: Any, link: Link) -> str:
    call = written(name, arguments(value))
    parts = [
        f"## `{name}` {{ #{name} }}",
        signature(f"{_module(kind, value)}.{name}", value),
        described(value, link),
        parameter_table(value),
        f"In a recipe: `{call}`. File: `{source_path(value)}`.",
        *(members(value, link) if isinstance(value, type) and kind in ("granularities",) else ()),
    ]
    return "\n\n".join(part for part in parts if part)


def _module(kind: str, value: Any) -> str:
    module = kind_of(kind).module.partition(":")[0]
    return module if kind != "amounts" else str(value.__module__)
