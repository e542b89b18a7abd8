"""A picture of a structure: modules from top to bottom, groups from left to right, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import prod

from sparsewood.structure.counts import entries_prunable, share_prunable, total_parameters
from sparsewood.structure.graphs import COLOURS, modules_of
from sparsewood.structure.names import counted, percent, place, short
from sparsewood.structure.structure import Group, Slice, Structure

__all__ = ["to_svg"]

_ROW, _COLUMN, _LETTER, _BAR = 17, 19, 6.6, 150
_HELD = "#b4b8c0"


@dataclass(frozen=True)
class _Row:
    """A module that has parameters, and how many of their entries can go."""

    module: str
    names: tuple[str, ...]
    entries: int
    prunable: int


def to_svg(structure: Structure, *, title: str = "") -> str:
    """An SVG picture: a row for every module, in the order of the model, and a column for every group.

    A full circle is where units of the group are made, a ring where they are read, a ring with a point both; the line
    joins what must go together, and is dashed where removing is not the same as setting to zero. Hatched squares are
    axes that stay. The bars are numbers of parameters: full what lies in units that can be removed, hatched what does
    not. Circles and bars say more when pointed at.
    """
    rows = _rows(structure)
    columns = structure.prunable
    names = [f"{group.name} ({group.units:,})" for group in columns]
    left = 24 + _LETTER * max([len(row.module) for row in rows] + [8])
    top = 92 + 0.82 * _LETTER * max([len(name) for name in names] + [6])
    held = left + _COLUMN * len(columns) + 10
    bars = held + 30
    width = max(bars + _BAR + 130, left + 0.82 * _LETTER * max(map(len, names), default=0) + 60, 640)
    height = top + _ROW * len(rows) + 20
    parts = [_head(structure, width, height, title)]
    parts += _bands(rows, left, top, bars + _BAR + 110)
    for number, (group, name) in enumerate(zip(columns, names, strict=True)):
        x = left + _COLUMN * (number + 0.5)
        parts += _column(group, name, rows, (x, top), COLOURS[number % len(COLOURS)])
    parts += _stays(structure, rows, (held + _COLUMN / 2, top))
    parts += _bars(rows, (bars, top))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _rows(structure: Structure) -> list[_Row]:
    """Modules with parameters; buffers go with those of their module."""
    prunable = entries_prunable(structure)
    rows = []
    for module, names in modules_of(structure).items():
        own = [name for name in names if name in structure.record.parameters]
        if own:
            entries = sum(prod(structure.shapes[name]) for name in own)
            rows.append(_Row(module, tuple(names), entries, sum(prunable[name] for name in own)))
    return rows


# ---------------------------------------------------------------- parts of the picture


def _head(structure: Structure, width: float, height: float, title: str) -> str:
    total, share = total_parameters(structure), share_prunable(structure)
    units = sum(group.units for group in structure.prunable)
    line = (
        f"{short(total)} parameters, {escape(percent(share))} of them in units that can be removed; "
        f"{counted(len(structure.prunable), 'group')}, {counted(units, 'unit')}"
    )
    legend = (
        (24, '<circle cx="6" r="5" fill="#555"/>', "made"),
        (84, '<circle cx="6" r="4" fill="#fff" stroke="#555" stroke-width="2"/>', "read"),
        (138, '<path d="M0 0h22" stroke="#555" stroke-width="2" stroke-dasharray="4 3"/>', "not exact"),
        (228, '<rect y="-6" width="12" height="12" fill="url(#stays)" stroke="#b4b8c0"/>', "stays"),
    )
    marks = "".join(
        f'<g transform="translate({x},62)">{mark}<text x="{28 if "path" in mark else 17}" y="4">{text}</text></g>'
        for x, mark, text in legend
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif" font-size="11" '
        f'fill="#24292f">\n<title>{escape(title or "Structure")}</title>\n'
        '<defs><pattern id="stays" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="5" height="5" fill="#fff"/><path d="M0 0v5" stroke="#8a9099" stroke-width="2.2"/>'
        "</pattern></defs>\n"
        f'<rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="24" y="26" font-size="15" font-weight="bold">{escape(title or "What hangs together")}</text>\n'
        f'<text x="24" y="44" fill="#57606a">{line}</text>\n{marks}'
    )


def _bands(rows: Sequence[_Row], left: float, top: float, right: float) -> Iterator[str]:
    """The names of the modules; those of one block have one background."""
    shade, last = False, None
    for number, row in enumerate(rows):
        block = _block(row.module)
        shade, last = shade != (block != last), block
        y = top + _ROW * number
        if shade:
            yield f'<rect x="16" y="{y:.1f}" width="{right - 16:.1f}" height="{_ROW}" fill="#f3f4f7"/>'
        yield (
            f'<text x="{left - 8:.1f}" y="{y + 12.5:.1f}" text-anchor="end">{escape(row.module or "(network)")}</text>'
        )


def _block(module: str) -> str:
    """The repeated block a module belongs to: the name up to its first number, else the module around it."""
    parts = module.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1] if numbers else parts[:-1] or parts)


def _column(group: Group, name: str, rows: Sequence[_Row], corner: tuple[float, float], colour: str) -> Iterator[str]:
    x, top = corner
    slices: dict[int, list[Slice]] = {}
    row_of = {one: number for number, row in enumerate(rows) for one in row.names}
    for one in group.slices:
        if one.param in row_of:
            slices.setdefault(row_of[one.param], []).append(one)
    yield (
        f'<text transform="translate({x + 3:.1f},{top - 8:.1f}) rotate(-55)" fill="{colour}">{escape(name)}'
        f"<title>{escape(_told(group))}</title></text>"
    )
    if not slices:
        return
    first, last = (top + _ROW * (number + 0.5) for number in (min(slices), max(slices)))
    dashes = "" if group.exact else ' stroke-dasharray="4 3"'
    yield f'<path d="M{x:.1f} {first:.1f}V{last:.1f}" stroke="{colour}" stroke-width="2" opacity="0.55"{dashes}/>'
    for number, ones in sorted(slices.items()):
        yield _mark(ones, (x, top + _ROW * (number + 0.5)), colour, group)


def _told(group: Group) -> str:
    exact = "" if group.exact else f"; not exact: {', '.join(group.inexact)}"
    return f"{group.name}: {counted(group.units, 'unit')}{exact}"


def _mark(slices: Sequence[Slice], at: tuple[float, float], colour: str, group: Group) -> str:
    x, y = at
    roles = {one.role for one in slices}
    told = escape(f"{group.name}: {', '.join(place(one) for one in slices)}")
    middle = f'cx="{x:.1f}" cy="{y:.1f}"'
    if roles == {"in"}:
        return f'<circle {middle} r="4" fill="#fff" stroke="{colour}" stroke-width="2"><title>{told}</title></circle>'
    if "in" in roles or "both" in roles:
        return (
            f'<g><title>{told}</title><circle {middle} r="5" fill="#fff" stroke="{colour}" stroke-width="2"/>'
            f'<circle {middle} r="2.4" fill="{colour}"/></g>'
        )
    return f'<circle {middle} r="5" fill="{colour}"><title>{told}</title></circle>'


def _stays(structure: Structure, rows: Sequence[_Row], corner: tuple[float, float]) -> Iterator[str]:
    """A hatched square where an input or output axis has positions that stay."""
    x, top = corner
    held: dict[str, dict[str, None]] = {}
    for group in structure.groups:
        for one in group.slices if group.frozen_by else ():
            if one.axis < 2:
                held.setdefault(one.param, {})[f"{place(one)}: {group.frozen_by}"] = None
    yield f'<text transform="translate({x + 3:.1f},{top - 8:.1f}) rotate(-55)" fill="#57606a">stays</text>'
    for number, row in enumerate(rows):
        reasons = [reason for name in row.names for reason in held.get(name, ())]
        if reasons:
            y = top + _ROW * number + 3
            yield (
                f'<rect x="{x - 5.5:.1f}" y="{y:.1f}" width="11" height="11" fill="url(#stays)" stroke="{_HELD}">'
                f"<title>{escape(chr(10).join(reasons))}</title></rect>"
            )


def _bars(rows: Sequence[_Row], corner: tuple[float, float]) -> Iterator[str]:
    x, top = corner
    yield f'<text x="{x:.1f}" y="{top - 8:.1f}" fill="#57606a">parameters</text>'
    most = max([row.entries for row in rows] + [1])
    for number, row in enumerate(rows):
        y = top + _ROW * number
        whole = max(1.0, _BAR * row.entries / most)
        goes = whole * row.prunable / row.entries if row.entries else 0.0
        told = f"{row.module}: {row.entries:,} parameters, {row.prunable:,} of them in units that can be removed"
        yield (
            f"<g><title>{escape(told)}</title>"
            f'<rect x="{x:.1f}" y="{y + 4:.1f}" width="{whole:.1f}" height="9" fill="url(#stays)" stroke="{_HELD}" '
            f'stroke-width="0.6"/><rect x="{x:.1f}" y="{y + 4:.1f}" width="{goes:.1f}" height="9" fill="#5b7fa6"/>'
            f'<text x="{x + whole + 6:.1f}" y="{y + 12.5:.1f}" fill="#57606a">{short(row.entries)}</text></g>'
        )
