"""Whether two networks compute the same: copies in float64, run on the same inputs in the same ways."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood import inputs
from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.copies import Coarsest, duplicate
from sparsewood.shrinking.cut import named_tensors
from sparsewood.shrinking.normalizers import Places, replaced_normalizers
from sparsewood.shrinking.plan import Keep
from sparsewood.shrinking.running import always_alike, difference, finite, others, shuffled, tensors_in
from sparsewood.structure import Structure
from sparsewood.structure.passes import outputs_of

__all__ = [
    "NOTHING",
    "Condition",
    "DoesNotRun",
    "Probe",
    "References",
    "distance",
    "has_power",
    "masked_outputs",
    "silence",
    "tolerable",
    "tolerance",
]

_ROUNDINGS = 100
"""So many times the step of the coarsest numbers that a network computes with, results may differ by."""
_FILLINGS = 4
"""How often parameters are filled with something else, first with NaN, which goes through where others get lost."""
_FLOOR = 1e-6
"""Smaller outputs than this share of the largest of the whole network are compared as if they were as large."""
_HALF_PRECISION = 1e-4
"""What is computed in a dtype with a larger step than this is so coarse that float64 around it does not help."""

_STILL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Modules that stay in eval mode: one batch's statistics depend on what is masked, and random masks on shapes."""


NOTHING = (0.0, 1e-15)
"""What stands for 0: the second where the first is divided by itself, as in weight normalisation."""


@dataclasses.dataclass(frozen=True, eq=False)
class Condition:
    """How a network is run."""

    name: str
    inputs: Any
    training: bool


class DoesNotRun(SparsewoodError):
    """A network raised in its forward; `modules` are the names of those that were running, innermost first."""

    def __init__(self, error: Exception, model: nn.Module) -> None:
        names = {id(module): name for name, module in model.named_modules()}
        running: list[str] = []
        traceback = error.__traceback__
        while traceback is not None:
            name = names.get(id(traceback.tb_frame.f_locals.get("self")))
            if name is not None and name not in running:
                running.insert(0, name)
            traceback = traceback.tb_next
        self.modules = tuple(running)
        self.cause = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        super().__init__(
            f"The small {type(model).__name__} does not run: {self.cause} (in {''.join(running[:1]) or 'the model'}). "
            "The model is as it was; protect=[...] leaves layers out."
        )


class Probe:
    """A copy of a network, in float64 where it runs so, and the conditions under which networks are run like it.

    `model` is the copy, `double` whether it is in float64, `eps` the coarsest step of the numbers that it computes
    with. `conditions` are eval mode on the example inputs and on random ones, and, if asked for, train mode on both;
    those under which the network does not run, or not twice alike, are left out, and `notes` say why.
    """

    def __init__(
        self, model: nn.Module, example_inputs: Any, generator: torch.Generator, *, training: bool = True
    ) -> None:
        self.generator = generator
        self.notes: list[str] = []
        self.double, self.eps = True, torch.finfo(torch.float64).eps
        self.model, self.inputs = self._copied(model, example_inputs)
        self.conditions = self._conditions(training=training)

    def of(self, model: nn.Module) -> nn.Module:
        """A copy of another network, in the same precision."""
        return duplicate(model, double=self.double)

    @property
    def coarse(self) -> bool:
        """Whether results are compared that were not computed in float64."""
        return not self.double or self.eps > _HALF_PRECISION

    @property
    def tried(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.conditions)

    def run(
        self,
        condition: Condition,
        model: nn.Module | None = None,
        *,
        seed: int = 0,
        within: AbstractContextManager[Any] | None = None,
    ) -> list[Tensor]:
        """The tensors that a network returns; of this probe's copy, if none is given."""
        model = self.model if model is None else model
        model.train(condition.training)
        for module in model.modules():
            if isinstance(module, _STILL):
                module.eval()
        positional, keywords = inputs.arguments(inputs.map_tensors(torch.clone, condition.inputs))
        with always_alike(model, seed), within or nullcontext():
            result = model(*positional, **keywords)
            return [x.detach().clone() for x in outputs_of(result) or tensors_in(result, set())]

    def _copied(self, model: nn.Module, example_inputs: Any) -> tuple[nn.Module, Any]:
        """The network and its inputs in float64; in their own dtypes if it does not run so."""
        for double in (True, False):
            copied = duplicate(model, double=double)
            prepared = inputs.map_tensors(_double, example_inputs) if double else example_inputs
            coarsest = Coarsest()
            try:
                outputs = self.run(Condition("", prepared, training=False), copied, within=coarsest)
            except Exception as error:  # whatever a forward raises that asks for a dtype
                if not double:
                    raise
                self.notes.append(f"not in float64: {type(error).__name__}: {error}")
                continue
            if not outputs:
                raise SparsewoodError(
                    f"{type(model).__name__} returns no tensor, so that nothing can be compared. Return one, or say "
                    "verify=False."
                )
            self.double, self.eps = double, coarsest.eps
            self.floor = _FLOOR * max((float(x.abs().max()) for x in outputs if x.numel()), default=0.0)
            return copied, prepared
        raise AssertionError

    def _conditions(self, *, training: bool) -> tuple[Condition, ...]:
        found = [Condition("eval mode", self.inputs, training=False)]
        for kind in (others, shuffled):
            other = inputs.map_tensors(lambda tensor, kind=kind: kind(tensor, self.generator), self.inputs)
            condition = Condition("eval mode, random inputs", other, training=False)
            why = self._unusable(condition)
            if not why:
                found.append(condition)
                break
        else:
            self.notes.append(f"not on random inputs: {why}")
        for one in tuple(found) if training else ():
            condition = dataclasses.replace(one, name=one.name.replace("eval", "train"), training=True)
            why = self._unusable(condition)
            if why:
                self.notes.append(f"not in {condition.name}: {why}")
            else:
                found.append(condition)
        return tuple(found)

    def _unusable(self, condition: Condition) -> str:
        try:
            outputs = self.run(condition)
            again = self.run(condition, seed=1) if condition.training else outputs
        except Exception as error:  # a forward may refuse values, or want labels in train mode
            return f"{type(error).__name__}: {error}"
        if not outputs:
            return "no tensor is returned"
        if not finite(outputs):
            return "the outputs are not finite"
        same = [x.shape for x in outputs] == [x.shape for x in again] and difference(outputs, again) == 0
        return "" if same else "the outputs are random"


def tolerance(probe: Probe, exact: float) -> float:
    """How much outputs may differ: `exact` in float64, else the square root of the step of their numbers."""
    return math.sqrt(probe.eps) if probe.coarse else exact


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def silence(model: nn.Module, structure: Structure, keep: Keep, value: float = 0.0) -> None:
    """Set everything that parameters hold of the units that are not kept to `value`, in place."""
    tensors = named_tensors(model)
    with torch.no_grad():
        for name, stays in keep.items():
            for one in structure.group(name).slices:
                if one.param in structure.record.parameters:
                    gone = np.flatnonzero((one.owner >= 0) & ~stays[one.owner])
                    tensors[one.param].index_fill_(
                        one.axis, torch.from_numpy(gone).to(tensors[one.param].device), value
                    )


References = list[tuple[Condition, list[Tensor]]]
"""How a network was run, and what it returned."""


def masked_outputs(
    probe: Probe, structure: Structure, keep: Keep, normalizers: Mapping[str, Places] | None = None, small: Any = None
) -> References:
    """What the probe's network returns once the values of the units that are not kept are 0, where that is finite.

    Where a weight is divided by its own norm, 1e-15 stands for 0. With `normalizers`, these modules leave out what is
    gone, as those of `small` do (see there). Raises `SparsewoodError` if nothing is finite.
    """
    for value in NOTHING:
        silence(probe.model, structure, keep, value)
        with replaced_normalizers(probe.model, small, normalizers or {}):
            outputs = [(one, probe.run(one)) for one in probe.conditions]
        sound = [(one, found) for one, found in outputs if finite(found)]
        if sound:
            return sound
    raise SparsewoodError(
        "The network gives no finite numbers, by itself or once the units are set to 0, so that nothing can be "
        "compared. Protect the layers that divide by their units, or say verify=False."
    )


def distance(probe: Probe, small: nn.Module, references: References) -> float:
    """The largest difference between what `small`, a network in the probe's precision, returns and `references`.

    Raises what its forward raises as `DoesNotRun`, and `SparsewoodError` if it returns tensors of other shapes.
    """
    largest = 0.0
    for condition, reference in references:
        try:
            outputs = probe.run(condition, small)
        except Exception as error:  # whatever a forward raises
            raise DoesNotRun(error, small) from error
        shapes = [[tuple(x.shape) for x in found] for found in (reference, outputs)]
        if shapes[0] != shapes[1]:
            raise SparsewoodError(f"Removing units changes the shapes of the outputs from {shapes[0]} to {shapes[1]}.")
        largest = max(largest, difference(reference, outputs, floor=probe.floor or _FLOOR))
    return largest


def has_power(probe: Probe, small: nn.Module, references: References, cut: Iterable[str]) -> bool:
    """Whether `small` would be found out if the parameters that were cut held something else.

    It would not if its forward did not use them: if it reached, through a closure, the network it is a copy of.
    """
    changed = duplicate(small, double=False)
    tensors = dict(changed.named_parameters(remove_duplicate=False))
    chosen = [tensors[name] for name in cut if name in tensors and tensors[name].is_floating_point()]
    generator = torch.Generator().manual_seed(0)
    for number in range(_FILLINGS if chosen else 0):
        with torch.no_grad():
            for tensor in chosen:
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(noise if number else noise * math.nan)
        try:
            if distance(probe, changed, references) > 0:
                return True
        except SparsewoodError:  # it raises, or gives other shapes: then it does depend on them
            return True
    return not chosen


def tolerable(found: float, probe: Probe, exact: float) -> bool:
    """Whether a difference is rounding: at most `exact`, or what the coarsest numbers in the network explain."""
    return found <= tolerance(probe, exact) or found <= _ROUNDINGS * probe.eps
