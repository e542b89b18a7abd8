"""What was cut out of a network: a value that can be printed, compared, saved, and carried out on a fresh network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from sparsewood.structure.names import counted

__all__ = ["Edit", "Keep", "Scaling", "ShrinkPlan"]

Keep = Mapping[str, np.ndarray]
"""For groups by name, one truth value for each unit, True = kept; groups that are not named stay whole."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A value that a module holds, before and after: `path` leads to it from the attribute `name`.

    Steps of the path are indices of lists and tuples, and names of attributes of plain objects.
    """

    module: str
    name: str
    path: tuple[int | str, ...]
    before: Any
    after: Any


@dataclass(frozen=True, eq=False)
class Scaling:
    """Entries of a parameter become `factor` times as large, counted from `-offset`: (w + offset) factor - offset.

    `positions`, int64 and ascending, are those along `axis` of the small network's parameter.
    """

    param: str
    axis: int
    positions: Tensor
    factor: float
    offset: float = 0.0


@dataclass(frozen=True, eq=False)
class ShrinkPlan:
    """What makes the small network from the large one.

    `kept[name][axis]` are the positions, int64 and ascending, that stay along an axis of a parameter or buffer; axes
    that stay whole are left out, and a tensor with several names is there under each. `shapes` are those of all
    parameters and buffers before. `edits` are integers and settings of modules that changed, `replaced` the modules
    that became modules of a class of this library (see `replacements`), `added` the biases that were made. `scalings`
    are what weights that stayed were multiplied by, first to last, because the forward divides by another width now.
    `steps` tells for each shrinking, first to last, what was asked for and how many units of each group stayed.

    `model` is the class of the network, and `source` the SHA-256 of its tensors before (`files.fingerprint`), by which
    the very network that was shrunk can be told from others of its shapes; nothing else depends on it.
    """

    model: str
    shapes: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, Mapping[int, Tensor]]
    edits: tuple[Edit, ...] = ()
    replaced: Mapping[str, str] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    source: str = ""
    steps: tuple[Mapping[str, Any], ...] = ()
    scalings: tuple[Scaling, ...] = ()

    def __repr__(self) -> str:
        """One line, whatever the size of the network: fields can be read one by one."""
        parts = [f"{sum(map(bool, self.kept.values()))} of {len(self.shapes)} tensors cut"]
        others = {"edit": self.edits, "replacement": self.replaced, "new bias": self.added, "scaling": self.scalings}
        parts += [f"{what} x{len(found)}" for what, found in others.items() if found]
        return f"ShrinkPlan({self.model}: {', '.join([*parts, counted(len(self.steps), 'step')])})"

    def __str__(self) -> str:
        return "\n".join([repr(self), *(f"  step {n}: {_told(step)}" for n, step in enumerate(self.steps, 1))])


def _told(step: Mapping[str, Any]) -> str:
    """What was asked for, and how many units stayed, in one line."""
    asked = ", ".join(f"{key}={value}" for key, value in step.items() if key != "units")
    counts = list(step["units"].values()) if isinstance(step.get("units"), Mapping) else []
    kept, units = sum(one[0] for one in counts), sum(one[1] for one in counts)
    return f"{asked}; {kept:,} of {counted(units, 'unit')} stay in {counted(len(counts), 'group')}"
