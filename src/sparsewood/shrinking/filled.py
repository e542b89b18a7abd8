"""The network of full size whose biases have taken over what removed units leave behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsewood.inputs import arguments, map_tensors
from sparsewood.shrinking.copies import duplicate
from sparsewood.shrinking.folding import Folded, constant_units, fold_constants, fold_means, joined
from sparsewood.shrinking.plan import Keep
from sparsewood.shrinking.running import always_alike, finite, others
from sparsewood.structure import Structure
from sparsewood.structure.passes import outputs_of

__all__ = ["Filled", "fill_constants", "fill_means"]


@dataclass(frozen=True, eq=False)
class Filled:
    """The full network with changed biases, what stays of it, and what folding says.

    Units that are False in `constants` are removed and replaced by the constant that they are on `samples`.
    """

    model: nn.Module
    keep: Keep
    done: Folded = field(default_factory=Folded)
    constants: Keep = field(default_factory=dict)
    samples: Sequence[Any] = ()

    @property
    def silenced(self) -> dict[str, np.ndarray]:
        """What is not set to 0 in the network that the small one has to equal: what stays, and constants."""
        constants = {name: ~stays for name, stays in self.constants.items()}
        return {name: stays | constants.get(name, False) for name, stays in self.keep.items()}

    @property
    def held(self) -> dict[str, str]:
        """Why constants stay that were to go, by group."""
        stay = {name: int((units & self.keep[name]).sum()) for name, units in self.done.borders.items()}
        return {name: f"no bias can take over the constants that {n} of its units are" for name, n in stay.items() if n}


def fill_means(model: nn.Module, structure: Structure, keep: Keep, batches: Iterable[Any]) -> Filled:
    """The biases of what reads removed units take over the mean of what these add."""
    reference = duplicate(model, double=False)
    return Filled(reference, keep, fold_means(reference, structure, keep, batches))


def fill_constants(
    model: nn.Module,
    structure: Structure,
    keep: Keep,
    inputs: Iterable[Any],
    *,
    stay: bool,
    fixed: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Filled:
    """Biases take over removed units that do not depend on the input.

    A constant that no number in a bias stands for stays if `stay`; else it goes like any other unit. That is so where
    zeros around an image cut it off, and for the units in `fixed`, by group.
    """
    found = constant_units(model, structure)
    left = {name: units & ~keep[name] for name, units in fixed.items() if name in keep}
    known = {name: stays | ~found[name] for name, stays in keep.items() if name in found}
    gone = _also(known, left)
    if all(stays.all() for stays in gone.values()):
        reference, done, seen = model, Folded(), ()
    else:
        seen, reference = _samples(model, inputs), duplicate(model, double=False)
        done = fold_constants(reference, structure, gone, seen, carriers=stay)
    done = replace(done, borders=joined([done.borders, left]))
    if stay:
        return Filled(reference, _also(keep, done.borders), done, _losing(gone), seen)
    return Filled(reference, keep, done, _losing(_also(gone, done.borders)), seen)


def _losing(constants: Keep) -> Keep:
    """Without the groups that lose none."""
    return {name: stays for name, stays in constants.items() if not stays.all()}


def _samples(model: nn.Module, inputs: Any) -> list[Any]:
    """The inputs, and random ones like them if the model gives finite numbers for these."""
    generator = torch.Generator().manual_seed(0)
    other = map_tensors(lambda tensor: others(tensor, generator), inputs)
    copied = duplicate(model, double=False).eval()
    positional, keywords = arguments(map_tensors(torch.clone, other))
    try:
        with always_alike(copied, 0):
            sound = finite(outputs_of(copied(*positional, **keywords)))
    except Exception:
        sound = False
    return [inputs, other] if sound else [inputs]


def _also(keep: Keep, units: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What stays if these units stay, too."""
    return {name: stays | units[name] if name in units else stays for name, stays in keep.items()}
