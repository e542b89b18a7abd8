"""Checks a built site: every link and anchor leads somewhere in it, and no page loads anything from elsewhere.

python docs/hooks/links.py site
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["Page", "problems", "read"]

_LOADS = {
    "img": "src",
    "script": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
}
"""What a browser fetches by itself, by tag: the attribute that says from where."""
_NOT_FETCHED = {"canonical", "alternate", "prev", "next", "author", "license"}


@dataclass
class Page(HTMLParser):
    """The links, the anchors and the resources of a page."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag points to, and what can be pointed to."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        kinds = set(found.get("rel", "").split())
        if tag in _LOADS and _LOADS[tag] in found and not (tag == "link" and kinds & _NOT_FETCHED):
            self.loads.append(found[_LOADS[tag]])


def read(path: Path) -> Page:
    """What is in a page."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def problems(site: Path) -> Iterator[str]:
    """What is wrong, page by page; nothing if all is well."""
    pages = {path.resolve(): read(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site}: no pages"
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its addresses are those of a server
        name = path.relative_to(site.resolve())
        for address in page.loads:
            if urlsplit(address).scheme in ("http", "https") or address.startswith("//"):
                yield f"{name}: loads {address}"
            elif not address.startswith("data:") and not _target(path, address).is_file():
                yield f"{name}: {address} does not exist"
        for address in page.links:
            found = _wrong(path, address, pages)
            if found:
                yield f"{name}: {found}"
    for path in sorted(site.rglob("*.css")):
        if "url(http" in path.read_text(encoding="utf-8").replace('"', "").replace("'", ""):
            yield f"{path.relative_to(site)}: loads from elsewhere"


def _wrong(path: Path, address: str, pages: dict[Path, Page]) -> str | None:
    parts = urlsplit(address)
    if parts.scheme or address.startswith("//"):
        return None  # a link that somebody may follow; nothing is fetched
    target = _target(path, address)
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return f"{address} does not exist"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors and anchor != "__skip":
        return f"{address} has no such anchor"
    return None


def _target(path: Path, address: str) -> Path:
    where = unquote(urlsplit(address).path)
    return (path.parent / where).resolve() if where else path


if __name__ == "__main__":
    wrong = list(problems(Path(sys.argv[1])))
    for line in wrong:
        sys.stdout.write(f"{line}\n")
    sys.exit(1 if wrong else 0)
