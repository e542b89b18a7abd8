"""Is the small network the masked one? What is compared with what, and what it takes to be called exact."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import map_tensors
from sparsewood.shrinking.build import Built, build
from sparsewood.shrinking.copies import duplicate
from sparsewood.shrinking.cut import apply_edits
from sparsewood.shrinking.filled import Filled
from sparsewood.shrinking.folding import Folded, fold_constants
from sparsewood.shrinking.normalizers import normalizers
from sparsewood.shrinking.observing import silent_units
from sparsewood.shrinking.plan import Keep
from sparsewood.shrinking.proof import (
    Probe,
    References,
    distance,
    has_power,
    masked_outputs,
    silence,
    tolerable,
    tolerance,
)
from sparsewood.shrinking.running import finite
from sparsewood.shrinking.scales import Scales, apply_scalings, fold_scales
from sparsewood.shrinking.sizes import Sizes
from sparsewood.structure import Structure
from sparsewood.structure.rules.normalization import NORMALISED

__all__ = ["Differs", "Proof", "Prover", "counted"]

_EXACT = 1e-9
"""How much outputs in float64 may differ, relative to the largest."""
_GUESSES = 24
"""How often it is tried which weights make up for a width."""


class Differs(SparsewoodError):
    """The small network is not the masked one."""


@dataclass(frozen=True)
class Proof:
    """What comparing the networks gave; see `ShrinkReport`."""

    difference: float | None = None
    proven: float | None = None
    exact: bool = False
    rounding: float | None = None
    inexact: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    scales: Scales = field(default_factory=Scales)


def counted(structure: Structure, keep: Keep) -> dict[str, tuple[str, ...]]:
    """The groups that lose units which something counts, and what does."""
    touched = [structure.group(name) for name, stays in keep.items() if not stays.all()]
    return {group.name: group.inexact for group in touched if not group.exact}


@dataclass(frozen=True, eq=False)
class Prover:
    """Compares the masked network with the small one made from it.

    `model` is the large network, with the user's masks if there were any, `inputs` are its example inputs.
    """

    model: nn.Module
    structure: Structure
    inputs: Any
    generator: torch.Generator

    def prove(self, filled: Filled, built: Built) -> Proof:
        """Run both; raises `SparsewoodError` if they differ where they should not.

        What goes into weights and biases is computed again in the precision of the comparison; then the network as it
        is, with what was rounded to its dtype, is run, too. Widths are folded into its weights here.
        """
        keep = filled.keep
        probe = self._probe(filled)
        small = self._small(probe, filled, built)
        references = masked_outputs(probe, self.structure, filled.silenced)
        limit, inexact = tolerance(probe, _EXACT), counted(self.structure, keep)
        scales, scaled = self._scaled(probe, small, references, filled, limit) if inexact else (Scales(), small)
        apply_scalings(built.model, scales.scalings)
        apply_edits(built.model, scales.edits)
        found = distance(probe, scaled, references)
        conditions = tuple(one.name for one, _ in references)
        proof = Proof(found, None, tolerable(found, probe, _EXACT), None, {}, conditions, tuple(probe.notes), scales)
        if proof.exact and found > limit:
            why = f"exact up to rounding: the network computes with numbers in steps of {probe.eps:.1g}"
            proof = replace(proof, notes=(*proof.notes, why))
        if not has_power(probe, scaled, references, built.plan.kept):
            raise SparsewoodError(self._powerless())
        if filled.constants or scales.scalings:
            proof = replace(proof, rounding=self._rounding(probe, built, scaled, conditions))
        if proof.exact:
            return proof
        if not inexact:
            raise Differs(self._differs(found, limit, conditions))
        proven = self._proven(probe, small, filled, inexact)
        if proven is not None and not tolerable(proven, probe, _EXACT):
            raise Differs(self._differs(proven, limit, conditions))
        return replace(proof, proven=proven, inexact=inexact, notes=(*proof.notes, *scales.reasons))

    def assume(self, filled: Filled, built: Built) -> Proof:
        """Nothing is run: widths are folded by the likeliest guess."""
        inexact = counted(self.structure, filled.keep)
        scales = fold_scales(built.model, self.structure, filled.keep) if inexact else Scales()
        return Proof(inexact=inexact, notes=scales.reasons, scales=scales)

    def audible(self, filled: Filled) -> dict[str, np.ndarray]:
        """Units, by group, whose constants make a difference although they were folded.

        There something reads them without a weight, as products of units with one another and sums over them do. They
        are tried in the large network, group by group, and by halves where that makes a difference; all of them are
        meant, if no half makes one. Units that are 0 are not among them: if these make a difference, the trace is
        wrong. Where a normalisation counts units, what one of them carries for others is not what they were: they are
        all meant.
        """
        counting = {name: ~filled.constants[name] for name in filled.done.carriers if not self._is_exact(name)}
        losing = {name: ~stays for name, stays in filled.constants.items() if self._is_exact(name)}
        if not losing:
            return counting
        probe = self._probe(filled)
        references = [(one, outputs) for one in probe.conditions if finite(outputs := probe.run(one))]
        found = {name: self._odd(probe, references, name, units, filled) for name, units in losing.items()}
        heard = {
            name: units & ~silent_units(self.model, self.structure.group(name), filled.samples)
            for name, units in found.items()
        }
        return {**counting, **{name: units for name, units in heard.items() if units.any()}}

    def _is_exact(self, name: str) -> bool:
        return self.structure.group(name).exact

    def _odd(self, probe: Probe, references: References, name: str, units: np.ndarray, filled: Filled) -> np.ndarray:
        """The units among these without whose constants the large network is another: all, if it takes both halves."""
        if self._even(probe, references, name, units, filled):
            return np.zeros_like(units)
        if units.sum() == 1:
            return units
        first = units & (np.cumsum(units) <= units.sum() // 2)
        halves = [self._odd(probe, references, name, half, filled) for half in (first, units & ~first)]
        return halves[0] | halves[1] if any(half.any() for half in halves) else units

    def _even(self, probe: Probe, references: References, name: str, units: np.ndarray, filled: Filled) -> bool:
        """Whether the large network is the same without these constants of a group, as far as they are folded."""
        alone = probe.of(self.model)
        borders = self._folded(alone, probe, {name: ~units}, filled).borders
        silence(alone, self.structure, {name: ~units | borders.get(name, np.False_)})
        return tolerable(distance(probe, alone, references), probe, _EXACT)

    # ------------------------------------------------------------ the two networks

    def _probe(self, filled: Filled) -> Probe:
        large = self.model if filled.constants or not filled.done.biases else filled.model
        return Probe(large, self.inputs, self.generator, training=self.structure.record.in_training)

    def _small(self, probe: Probe, filled: Filled, built: Built) -> nn.Module:
        """The small network in the precision of the comparison, with constants folded in it."""
        if not filled.constants:
            return probe.of(built.model)
        reference = probe.of(self.model)
        done = self._folded(reference, probe, filled.constants, filled)
        return build(reference, self.structure, filled.keep, done.added).model

    def _folded(self, reference: nn.Module, probe: Probe, constants: Keep, filled: Filled) -> Folded:
        """Fold constants again, in the probe's precision."""
        inputs = [map_tensors(_double, one) if probe.double else one for one in filled.samples]
        carriers = bool(filled.done.carriers)
        return fold_constants(reference, self.structure, constants, inputs, carriers=carriers)

    def _scaled(
        self, probe: Probe, small: nn.Module, references: References, filled: Filled, limit: float
    ) -> tuple[Scales, nn.Module]:
        """Widths folded into a copy of `small`; nothing, if that makes no great difference."""
        scaled = duplicate(small, double=False)
        hopeless = any(NORMALISED in reasons for reasons in counted(self.structure, filled.keep).values())
        left = iter(range(2 if hopeless else _GUESSES))  # what stays for another reason hides how good a guess is

        def difference() -> float:
            return distance(probe, scaled, references) if next(left, None) is not None else math.inf

        scales = fold_scales(scaled, self.structure, filled.keep, difference, enough=limit)
        if not scales.scalings or distance(probe, scaled, references) > max(
            limit, distance(probe, small, references) / 10
        ):
            return Scales(reasons=scales.reasons), small
        return scales, scaled

    # ------------------------------------------------------------ what is left to prove

    def _rounding(self, probe: Probe, built: Built, exact: nn.Module, conditions: Sequence[str]) -> float:
        """How far the network as it is differs from `exact`, the same one with nothing rounded.

        Raises `SparsewoodError` if that is more than rounding its weights.
        """
        step = max((torch.finfo(x.dtype).eps for x in built.model.parameters() if x.is_floating_point()), default=0.0)
        references = [(one, probe.run(one, exact)) for one in probe.conditions if one.name in conditions]
        rounding = distance(probe, probe.of(built.model), references)
        if rounding > math.sqrt(step):
            raise Differs(self._differs(rounding, math.sqrt(step), conditions))
        return rounding

    def _proven(self, probe: Probe, small: nn.Module, filled: Filled, inexact: Iterable[str]) -> float | None:
        """How far all but the inexact differs: with normalisations that leave out what is gone, or without the groups.

        `None` if there is nothing else.
        """
        keep = filled.keep
        places = normalizers(probe.model, self.structure, keep, inexact)
        if places is not None:
            return distance(probe, small, masked_outputs(probe, self.structure, filled.silenced, places, small))
        rest = {name: stays for name, stays in keep.items() if name not in inexact}
        if all(stays.all() for stays in rest.values()) or Sizes(self.structure, rest).failures():
            return None
        constants = {name: stays for name, stays in filled.constants.items() if name not in inexact}
        part = replace(filled, keep=rest, constants=constants)
        again = self._probe(part)
        smaller = self._small(again, part, build(filled.model, self.structure, rest, filled.done.added))
        return distance(again, smaller, masked_outputs(again, self.structure, part.silenced))

    # ------------------------------------------------------------ what is refused

    def _differs(self, found: float, limit: float, conditions: Sequence[str]) -> str:
        return (
            f"The small {type(self.model).__name__} differs from the masked one by {found:.2g}, more than {limit:.1g} "
            f"({' and '.join(conditions)}): removing these units is not the same as masking them, although the trace "
            "says so. The model is as it was. Please report the network; protect=[...] leaves layers out."
        )

    def _powerless(self) -> str:
        return (
            f"The outputs of the small {type(self.model).__name__} do not depend on the weights that were cut, so that "
            "comparing them proves nothing: its forward uses those of the network that it is a copy of (through a "
            "closure, or a forward that was put on an object), or outputs are at their limits whatever comes in. "
            "The model is as it was."
        )


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
