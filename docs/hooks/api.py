"""Pages about the public names of `import sparsewood as sw`, made from their docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from docstrings import Link, escaped, first_line
from objects import described, members, signature, source_path
from reference import FOLDER, linker

import sparsewood

__all__ = ["GROUPS", "api_pages", "api_places"]

GROUPS = {"functions": "Functions", "classes": "Classes", "modules": "Packages"}


def api_places() -> dict[str, str]:
    """The page of every public name. Folders keep names apart that differ only in capitals."""
    return {name: f"{FOLDER}/api/{_group(value)}/{name}.md" for name, value in _public().items()}


def api_pages(found: Mapping[str, str]) -> dict[str, str]:
    """All pages by path; `found` says where names are described."""
    where = api_places()
    pages = {f"{FOLDER}/api/index.md": _index(where)}
    for name, value in _public().items():
        link = linker(where[name], found)
        pages[where[name]] = _module(name, value, link) if isinstance(value, ModuleType) else _object(name, value, link)
    return pages


def _public() -> dict[str, Any]:
    return {name: getattr(sparsewood, name) for name in sorted(sparsewood.__all__, key=str.lower) if name[0] != "_"}


def _group(value: Any) -> str:
    if isinstance(value, ModuleType):
        return "modules"
    return "classes" if isinstance(value, type) else "functions"


def _index(where: Mapping[str, str]) -> str:
    parts = ["# Python", "Everything that `import sparsewood as sw` offers; `sw.` stands before each name."]
    for group, title in GROUPS.items():
        rows = [
            f"| [`{name}`]({group}/{name}.md) | {escaped(first_line(inspect.getdoc(value) or ''))} |"
            for name, value in _public().items()
            if _group(value) == group
        ]
        assert all(f"/{group}/" in where[name] for name, value in _public().items() if _group(value) == group)
        parts += [f"## {title}", "\n".join(["| name | what it is |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def _object(name: str, value: Any, link: Link) -> str:
    body = [*members(value, link)] if isinstance(value, type) else []
    parts = [
        f"# {name}",
        signature(f"sw.{name}", value),
        described(value, link),
        *(["## Methods and properties", *body] if body else []),
        f"File: `{source_path(value)}`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _module(name: str, module: ModuleType, link: Link) -> str:
    names = {one: getattr(module, one) for one in getattr(module, "__all__", [])}
    rows, sections = [], []
    for one, value in names.items():
        if isinstance(value, ModuleType) or not callable(value):
            rows.append(f"| `{one}` | {_constant(value)} |")
            continue
        target = link(one)
        rows.append(f"| [`{one}`]({target or '#' + one}) | {escaped(first_line(inspect.getdoc(value) or ''))} |")
        if target is None:
            sections.append(_section(f"sw.{name}.{one}", one, value, link))
    table = ["\n".join(["| name | what it is |", "|---|---|", *rows])] if rows else []
    doc = described(module, link)
    return "\n\n".join([f"# {name}", *([doc] if doc else []), *table, *sections]) + "\n"


def _section(path: str, name: str, value: Any, link: Link) -> str:
    parts = [f"## `{name}` {{ #{name} }}", signature(path, value), described(value, link)]
    if isinstance(value, type):
        parts += members(value, link)
    return "\n\n".join(part for part in parts if part)


def _constant(value: Any) -> str:
    if isinstance(value, ModuleType):
        return escaped(first_line(inspect.getdoc(value) or ""))
    return f"a constant: {type(value).__name__}"
