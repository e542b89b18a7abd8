"""From an amount to a number of units kept."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import nn

from sparsewood.algebra import round_half_even
from sparsewood.errors import SparsewoodError
from sparsewood.types import Amount, Compression, Count, Density, Remaining, Sparsity, Threshold


@dataclass(frozen=True)
class Layer:
    """What allocation knows of one parameter, or of one group of coupled units.

    `aliases` are its other names if it is tied, `grid` is the shape of its unit grid, `alive` how many units earlier
    masks left, `floor` how many must stay, `owner` the class of its module. Layers of equal `kind` are of equal shape;
    without one, those are that agree in class and grid.
    """

    name: str
    aliases: tuple[str, ...]
    grid: tuple[int, ...]
    alive: int
    floor: int
    owner: type[nn.Module]
    kind: Hashable = None

    @property
    def units(self) -> int:
        """Units in the grid."""
        return math.prod(self.grid)


def total_kept(amount: Amount, layers: Sequence[Layer], *, clamp: bool = False) -> int:
    """Units to keep of `layers` together for `amount`.

    Raises `SparsewoodError` if that is more than earlier masks left, less than the floors (unless it is none at all,
    which is then what was asked for), or if a `Count` is more than there is; with `clamp` such a count takes all.
    """
    units, alive = sum(layer.units for layer in layers), sum(layer.alive for layer in layers)
    kept = _kept(amount, units, alive)
    if kept < 0:
        if not clamp:
            raise SparsewoodError(f"{amount}: {_where(layers)} has {units:,} units.")
        kept = 0
    if kept > alive:
        raise SparsewoodError(
            f"{amount} would keep {kept:,} of {units:,} units of {_where(layers)}, but the masks given have already "
            f"removed {units - alive:,}. Ask for more, or start without masks."
        )
    floor = sum(layer.floor for layer in layers)
    if 0 < kept < floor or (kept == 0 and not _asks_for_all(amount, units, alive) and floor > 0):
        raise SparsewoodError(
            f"{amount} would keep {kept:,} of {units:,} units of {_where(layers)}, but {floor:,} must stay so that no "
            "layer is emptied. Ask for less, or for a smaller min_units."
        )
    return kept


def _kept(amount: Amount, units: int, alive: int) -> int:
    match amount:
        case Count(n):
            return units - n
        case Sparsity(fraction):
            return units - round_half_even(fraction * units)
        case Density(fraction):
            return round_half_even(fraction * units)
        case Remaining(fraction):
            return alive - round_half_even(fraction * alive)
        case Compression():
            raise SparsewoodError(
                f"{amount} is for the whole model. For a part of it use Density({1 / amount.ratio:g})."
            )
        case Threshold():
            raise SparsewoodError(
                f"{amount} is no number of units: it is decided unit by unit. In a scope of your own count those that "
                "stay with request.above."
            )


def _asks_for_all(amount: Amount, units: int, alive: int) -> bool:
    match amount:
        case Count(n):
            return n >= units
        case Sparsity(fraction) | Remaining(fraction):
            return fraction == 1 or alive == 0
        case Density(fraction):
            return fraction == 0
        case Compression() | Threshold():
            return False


def _where(layers: Sequence[Layer]) -> str:
    return layers[0].name if len(layers) == 1 else f"{layers[0].name} ... {layers[-1].name} ({len(layers)} parameters)"
