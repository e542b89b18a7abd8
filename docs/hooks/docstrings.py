"""Docstrings in the house's style as Markdown: formula, paragraphs, arguments, source, examples."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

__all__ = ["escaped", "first_line", "to_markdown"]

_SPECIAL = re.compile(r"[&<>\\*_{}\[\]#|~^$]")  # what some Markdown extension would take for its own
_CODE = re.compile(r"(`[^`]+`)")
_URL = re.compile(r"(https?://[^\s,;)\"'`]*[^\s,;)\"'`.])")
_DIRECTIVE = re.compile(r" *# doctest:.*$")
_FORMULA = re.compile(r"^[^.:;]{1,60}? = ")
_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes):$")

Link = Callable[[str], str | None]


def first_line(doc: str) -> str:
    """The first paragraph of a docstring on one line.

    >>> first_line("score = |w|,\\nof a weight.\\n\\nMore.")
    'score = |w|, of a weight.'
    """
    return " ".join(doc.strip().partition("\n\n")[0].split())


def escaped(text: str, link: Link = lambda _: None) -> str:
    """Text as Markdown that shows it as it stands. Addresses are linked, and names in backticks that `link` knows.

    >>> escaped("a_j < `x_y`"), escaped("see `Magnitude`", {"Magnitude": "magnitude.md"}.get)
    ('a&#95;j &#60; `x_y`', 'see [`Magnitude`](magnitude.md)')
    """
    return "".join(_code(part, link) if part.startswith("`") else _plain(part) for part in _CODE.split(text))


def _code(part: str, link: Link) -> str:
    target = link(part.strip("`").removeprefix("sw.").split("(")[0])
    return f"[{part}]({target})" if target else part


def _plain(text: str) -> str:
    parts = _URL.split(text)
    return "".join(f"<{part}>" if number % 2 else _shown(part) for number, part in enumerate(parts))


def _shown(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", text)


def to_markdown(doc: str, link: Link = lambda _: None) -> str:
    """A whole docstring. A first paragraph that is a formula has the class `formula`, for the style sheet."""
    head, _, rest = doc.strip().partition("\n\n")
    mark = "\n{ .formula }" if _FORMULA.match(head) else ""
    parts = [_paragraph(head, link) + mark] if head else []
    parts += [_block(kind, lines, link) for kind, lines in _blocks(rest.splitlines())]
    return "\n\n".join(parts) + "\n"


def _blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Runs of lines of one kind: doctest, literal (indented), section, list, paragraph."""
    kind, held = "", []
    for line in lines:
        now = _kind(line, kind)
        if held and (now != kind or not now):
            yield kind, held
            held = []
        kind = now
        if now:
            held.append(line)
    if held:
        yield kind, held


def _kind(line: str, before: str) -> str:
    if not line.strip():
        return "" if before != "section" else "section"
    if line.startswith(">>>") or before == "doctest":
        return "doctest"
    if _SECTION.match(line) or (before == "section" and line.startswith(" ")):
        return "section"
    if line.startswith("    "):
        return "literal"
    if line.startswith(("* ", "- ")) or (before == "list" and line.startswith(" ")):
        return "list"
    return "paragraph"


def _block(kind: str, lines: list[str], link: Link) -> str:
    if kind == "doctest":
        return "\n".join(["```pycon", *(_DIRECTIVE.sub("", line) for line in lines), "```"])
    if kind == "literal":
        return "\n".join(["```text", *(line.removeprefix("    ") for line in lines), "```"])
    if kind == "section":
        return _section(lines, link)
    if kind == "list":
        return "\n".join(f"- {escaped(item, link)}" for item in _items(lines, ("* ", "- ")))
    return _paragraph("\n".join(lines), link)


def _paragraph(text: str, link: Link) -> str:
    shown = escaped(" ".join(text.split()), link)
    shown = re.sub(r"^(\d+)([.)]) ", r"\1\\\2 ", re.sub(r"^([-+]) ", r"\\\1 ", shown))  # no list is meant
    return re.sub(r"(^|(?<=\. ))Source: ", "**Source:** ", shown)


def _items(lines: list[str], bullets: tuple[str, ...]) -> list[str]:
    """Lines joined to items: each begins with a bullet, and what is indented goes on."""
    found: list[str] = []
    for line in lines:
        if line.startswith(bullets):
            found.append(line[2:].strip())
        elif found:
            found[-1] += " " + line.strip()
    return found


def _section(lines: list[str], link: Link) -> str:
    """`Args:` and its like as a list of names with what they mean."""
    title = lines[0].rstrip(":").replace("Args", "Parameters")
    found: list[tuple[str, str]] = []
    for line in lines[1:]:
        if re.match(r"^ {4}\S", line):
            names, colon, text = line.strip().partition(": ")
            named = ", ".join(f"`{name.strip()}`" for name in names.split(","))
            found.append((named if colon else "", text if colon else line.strip()))
        elif line.strip() and found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    shown = [f"- {f'{names}: ' if names else ''}{escaped(text, link)}" for names, text in found]
    return "\n".join([f"**{title}**", "", *shown])
