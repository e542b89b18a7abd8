"""What mkdocs calls: pages made from the code, pictures, and where they stand in the navigation."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from api import GROUPS, api_pages, api_places
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pictures import draw_all
from reference import FOLDER, SINGLE, component_pages, kind_title, places

from sparsewood.run.catalogue import KINDS, components

__all__ = ["on_config", "on_files", "on_post_template"]

MARKER = "GENERATED"
"""What stands in the navigation of mkdocs.yml where the generated pages go."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages where the navigation says `GENERATED`."""
    config.nav = [_filled(entry) for entry in config.nav or []]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add pages and pictures that are made now, from what is installed."""
    pages = {name: page for name, page in api_places().items() if "/modules/" not in page}
    found = {**pages, **places()}  # `data` and `masks` in a docstring are parameters, not packages
    made: dict[str, str] = {**component_pages(found), **api_pages(found)}
    made |= {f"images/{name}": content for name, content in draw_all().items()}
    for path, content in sorted(made.items()):
        files.append(File.generated(config, path, content=content))
    return files


def on_post_template(output: str, *, template_name: str, config: MkDocsConfig) -> str:
    """Leave out the map for search engines: it has the day of the build in it, and no address to be of use."""
    del config
    return "" if template_name == "sitemap.xml" else output


def _filled(entry: Any) -> Any:
    """An entry of the navigation, with the generated ones in place of the marker."""
    if isinstance(entry, Mapping):
        return {title: _generated() if inner == MARKER else inner for title, inner in entry.items()}
    return entry


def _generated() -> list[Any]:
    kinds: list[Any] = [f"{FOLDER}/index.md"]
    for kind in KINDS:
        title = kind_title(kind)
        if kind in SINGLE:
            pages = [{name: f"{FOLDER}/{kind}/{name}.md"} for name in components(kind)]
            kinds.append({title: [f"{FOLDER}/{kind}/index.md", *pages]})
        else:
            kinds.append({title: f"{FOLDER}/{kind}.md"})
    groups: dict[str, list[Any]] = {title: [] for title in GROUPS.values()}
    for name, page in api_places().items():
        groups[GROUPS[posixpath.basename(posixpath.dirname(page))]].append({name: page})
    python = [f"{FOLDER}/api/index.md", *({title: pages} for title, pages in groups.items())]
    return [*kinds, {"Python": python}]
