"""A few shapes in SVG, with the same colours for the same meanings on every picture."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["GONE", "INK", "KEPT", "LINE", "MARK", "MARKS", "arrow", "box", "grid", "picture", "text"]

INK, LINE = "#24292f", "#8a9099"
KEPT, GONE, MARK = "#3f51b5", "#eceef2", "#e8590c"
MARKS = ("#3f51b5", "#e8590c", "#2b8a3e", "#9c36b5")


def picture(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A whole file: white ground, a title for screen readers, and the parts."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" fill="{INK}" font-family="Helvetica, Arial, sans-serif" '
            'font-size="12">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>',
            '<rect width="100%" height="100%" fill="#fff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, words: str, *, size: int = 12, bold: bool = False, anchor: str = "start") -> str:
    """A line of text."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'


def grid(x: float, y: float, cells: Sequence[Sequence[str]], cell: float = 14) -> str:
    """A rectangle of coloured squares; `cells` are colours, row by row."""
    squares = [
        f'<rect x="{x + cell * column:g}" y="{y + cell * row:g}" width="{cell:g}" height="{cell:g}" fill="{colour}"/>'
        for row, line in enumerate(cells)
        for column, colour in enumerate(line)
    ]
    return f'<g stroke="#fff" stroke-width="1.2">{"".join(squares)}</g>'


def box(x: float, y: float, width: float, height: float, lines: Sequence[str], *, fill: str = "#f3f4f9") -> str:
    """A box with centred lines, the first one bold."""
    top = y + height / 2 - 8 * (len(lines) - 1) + 4
    words = [
        text(x + width / 2, top + 16 * number, line, bold=number == 0, anchor="middle")
        for number, line in enumerate(lines)
    ]
    frame = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" stroke="#c5cae9"/>'
    return frame + "".join(words)


def arrow(*points: tuple[float, float], dashed: bool = False) -> str:
    """A line through points, with a tip at its end."""
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.5" marker-end="url(#tip)"{dashes}/>'
