"""Tables of what units do: one row for each unit, counts for each layer, and the units that memorize most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from sparsewood.errors import SparsewoodError
from sparsewood.report.table import Table

__all__ = ["LayerRow", "UnitRow", "layer_rows", "layer_table", "most_memorizing", "unit_table"]

STATES = ("dead", "constant", "saturated", "")


@dataclass(frozen=True)
class UnitRow:
    """What was found of one unit.

    `state` is "dead", "constant", "saturated" or "" for a unit that does something; None for one that was seen nowhere.
    `zeros` is the fraction of examples and places at which it is 0. `unitmem` is None where it is not defined. `image`
    is the number of the image that excites the unit most, and `label` its class; None where no image does.
    """

    layer: str
    unit: int
    state: str | None
    zeros: float | None
    unitmem: float | None
    image: int | None
    label: str | None

    def __post_init__(self) -> None:
        if self.state is not None and self.state not in STATES:
            raise SparsewoodError(f"A unit is dead, constant, saturated or none of these. Got {self.state!r}.")


@dataclass(frozen=True)
class LayerRow:
    """How many units of a layer are what; None where UnitMem is not defined.

    `memorizing` are units of which UnitMem is at least a threshold, `median` is that of UnitMem of the units that are
    not dead.
    """

    layer: str
    units: int
    dead: int
    constant: int
    saturated: int
    memorizing: int | None
    median: float | None


def layer_rows(units: Iterable[UnitRow], threshold: float) -> list[LayerRow]:
    """Counts for each layer, in the order in which layers come.

    >>> alive, dead = UnitRow("fc", 0, "", 0.1, 0.95, 7, "cat"), UnitRow("fc", 1, "dead", 1.0, 0.0, 0, "dog")
    >>> layer_rows([alive, dead], 0.9)
    [LayerRow(layer='fc', units=2, dead=1, constant=0, saturated=0, memorizing=1, median=0.95)]
    """
    found = []
    for name, rows in _by_layer(units).items():
        dead, constant, saturated = (sum(one.state == state for one in rows) for state in STATES[:3])
        measured = [one for one in rows if one.unitmem is not None]
        alive = [one.unitmem for one in measured if one.unitmem is not None and one.state != "dead"]
        memorizing = sum(score >= threshold for score in alive) if measured else None
        found.append(LayerRow(name, len(rows), dead, constant, saturated, memorizing, median(alive) if alive else None))
    return found


def most_memorizing(units: Sequence[UnitRow], top: int) -> list[UnitRow]:
    """Of every layer at most `top` units that are not dead, those of the largest UnitMem first; of equals the lower."""
    found: list[UnitRow] = []
    for rows in _by_layer(units).values():
        alive = [(-one.unitmem, one.unit, one) for one in rows if one.unitmem is not None and one.state != "dead"]
        found += [one for *_, one in sorted(alive, key=lambda entry: entry[:2])[:top]]
    return found


def _by_layer(units: Iterable[UnitRow]) -> dict[str, list[UnitRow]]:
    layers: dict[str, list[UnitRow]] = {}
    for one in units:
        layers.setdefault(one.layer, []).append(one)
    return layers


def layer_table(rows: Sequence[LayerRow], title: str, threshold: float) -> Table:
    """A line for each layer, and one for all of them together."""
    headers = ("layer", "units", "dead", "constant", "saturated", f"UnitMem >= {threshold:g}", "median UnitMem")
    lines = [
        (row.layer, *_counts(row), _shown(row.memorizing), "-" if row.median is None else f"{row.median:.3f}")
        for row in rows
    ]
    if len(rows) > 1:
        measured = [row.memorizing for row in rows if row.memorizing is not None]
        totals = [sum(getattr(row, name) for row in rows) for name in ("units", "dead", "constant", "saturated")]
        lines.append(("all", *(f"{total:,}" for total in totals), _shown(sum(measured) if measured else None), ""))
    return Table(title, headers, tuple(lines))


def unit_table(rows: Sequence[UnitRow], title: str) -> Table:
    """A line for each unit, with the image that excites it most."""
    lines = tuple(
        (
            row.layer,
            f"{row.unit}",
            "-" if row.unitmem is None else f"{row.unitmem:.3f}",
            _shown(row.image),
            row.label or "-",
        )
        for row in rows
    )
    return Table(title, ("layer", "unit", "UnitMem", "image", "class"), lines)


def _counts(row: LayerRow) -> tuple[str, ...]:
    return tuple(f"{count:,}" for count in (row.units, row.dead, row.constant, row.saturated))


def _shown(number: int | None) -> str:
    return "-" if number is None else f"{number}"
