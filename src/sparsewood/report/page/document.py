"""The page as text: a template, style and scripts, plotly.js and the study, all in one file."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from sparsewood.errors import SparsewoodError
from sparsewood.files import write_atomically
from sparsewood.report.page.columns import embeddable
from sparsewood.report.page.content import content, facts, is_empty, verdict
from sparsewood.report.study import Study

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["page_text", "write_page"]

# In the order in which they build on one another.
SCRIPTS = (
    "base.js",
    "look.js",
    "charts.js",
    "choose.js",
    "tables.js",
    "recipe.js",
    "tradeoff.js",
    "results.js",
    "layers.js",
    "masks.js",
    "units.js",
    "training.js",
    "network.js",
    "start.js",
)


def write_page(study: Study, path: str | Path, *, title: str | None = None) -> Path:
    """Write the page of a study, complete or not at all, and return its path.

    The file holds all that it needs and loads nothing. Raises `SparsewoodError` if plotly or jinja2 is missing,
    `OutputError` for a place that cannot be written to.
    """
    text = page_text(study, title=title)
    write_atomically(
        path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    )
    return Path(path)


def page_text(study: Study, *, title: str | None = None) -> str:
    """The page of a study as HTML; `title` instead of the study's own.

    Names, recipes and messages are shown as they are, never read as markup. Raises `SparsewoodError` if plotly or
    jinja2 is missing.
    """
    named = study if title is None else replace(study, title=title)
    library = _plotly()
    environment = _environment()
    assets = resources.files("sparsewood.report.page") / "assets"
    return environment.from_string(_read(assets, "page.html.j2")).render(
        study=named,
        verdict=verdict(named),
        whole=named.complete,
        facts=facts(named),
        empty=is_empty(named),
        style=_read(assets, "page.css"),
        theme=_script(_read(assets, "theme.js")),
        library=_script(library),
        data=embeddable(content(named)),
        scripts=[(name, _script(_read(assets, name))) for name in SCRIPTS],
    )


def _read(folder: Traversable, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def _script(code: str) -> str:
    """Code that may stand between script tags: what would end the element or begin a comment is broken up."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise SparsewoodError(
            "The page needs plotly, which is not installed. Run: pip install 'sparsewood[report]'"
        ) from error
    return get_plotlyjs()


def _environment() -> Environment:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise SparsewoodError(
            "The page needs jinja2, which is not installed. Run: pip install 'sparsewood[report]'"
        ) from error
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
