"""Is the small network the masked one? What is compared with what, and what it takes to be called exact."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import map_tensors
from sparsewood.shrinking.build import Built, build
from sparsewood.shrinking.cut import apply_edits
from sparsewood.shrinking.filled import Filled
from sparsewood.shrinking.folding import fold_constants
from sparsewood.shrinking.normalizers import normalizers
from sparsewood.shrinking.plan import Keep
from sparsewood.shrinking.proof import Probe, References, distance, has_power, masked_outputs, tolerable, tolerance
from sparsewood.shrinking.scales import Scales, apply_scalings, fold_scales
from sparsewood.shrinking.sizes import Sizes
from sparsewood.structure import Structure
from sparsewood.structure.rules.normalization import NORMALISED

__all__ = ["Proof", "Prover", "counted"]

_EXACT = 1e-9
"""How much outputs in float64 may differ, relative to the largest."""
_GUESSES = 24
"""How often it is tried which weights make up for a width."""


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
            raise SparsewoodError(self._differs(found, limit, conditions))
        proven = self._proven(probe, small, filled, inexact)
        if proven is not None and not tolerable(proven, probe, _EXACT):
            raise SparsewoodError(self._differs(proven, limit, conditions))
        return replace(proof, proven=proven, inexact=inexact, notes=(*proof.notes, *scales.reasons))

    def assume(self, filled: Filled, built: Built) -> Proof:
        """Nothing is run: widths are folded by the likeliest guess."""
        inexact = counted(self.structure, filled.keep)
        scales = fold_scales(built.model, self.structure, filled.keep) if inexact else Scales()
        return Proof(inexact=inexact, notes=scales.reasons, scales=scales)

    # ------------------------------------------------------------ the two networks

    def _probe(self, filled: Filled) -> Probe:
        large = self.model if filled.constants or not filled.done.biases else filled.model
        return Probe(large, self.inputs, self.generator, training=self.structure.record.in_training)

    def _small(self, probe: Probe, filled: Filled, built: Built) -> nn.Module:
        """The small network in the precision of the comparison, with constants folded in it."""
        if not filled.constants:
            return probe.of(built.model)
        reference = probe.of(self.model)
        inputs = [map_tensors(_double, one) if probe.double else one for one in filled.samples]
        carriers = bool(filled.done.carriers)
        done = fold_constants(reference, self.structure, filled.constants, inputs, carriers=carriers)
        return build(reference, self.structure, filled.keep, done.added).model

    def _scaled(
        self, probe: Probe, small: nn.Module, references: References, filled: Filled, limit: float
    ) -> tuple[Scales, nn.Module]:
        """Widths folded into a copy of `small`; nothing, if that makes no great difference."""
        scaled = copy.deepcopy(small)
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
            raise SparsewoodError(self._differs(rounding, math.sqrt(step), conditions))
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
