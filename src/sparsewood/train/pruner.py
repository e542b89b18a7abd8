"""A `Pruning` carried out in anybody's training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewood.errors import SparsewoodError
from sparsewood.masks import apply_masks, enforce, not_held
from sparsewood.pruning import Pruning
from sparsewood.schedules import Event
from sparsewood.seeds import derive
from sparsewood.shrinking.unit_masks import choose_units
from sparsewood.statistics import Loss
from sparsewood.structure import Structure
from sparsewood.train.timetable import timetable
from sparsewood.types import Masks

__all__ = ["Pruner", "State", "innermost_optimizer", "require_identity", "require_zeros"]

MASK = "mask/"

State = tuple[Mapping[str, Tensor], Mapping[str, Any]]


class Pruner:
    """Carries out `pruning` while somebody else trains `model`: one call after every step, and one at the end.

    An event at step s takes place before training step s (counted from 0): at 0 when the pruner is made, otherwise in
    the `step()` that ends step s - 1. From then on its masks are held after every step of `optimizer` (see `enforce`).
    What a soft event (`regrow`) removes is set to zero once and is free to grow again. Earlier `masks` are held from
    the start.

    Args:
        optimizer: a PyTorch optimizer, or one that accelerate, Fabric or Lightning wrapped around it.
        pruning: in units of "epoch" or "step"; "round" does for a single event, which is then at step `start`.
        steps_per_epoch: optimizer steps in an epoch; for unit "epoch".
        data, loss: for criteria that need them, as in `prune`; of the data, `score_batches` batches are read at every
            event. A loader that draws its order from the global random state gives the same batches in every run.
        structure: what hangs together in the model, from `sparsewood.trace`; for prunings of `Coupled()` units.
        seed: for random criteria; event i draws from `derive(seed, "prune", i)`.
        state: what `state()` returned, to go on from there. Without it the events of step 0 take place at once.

    `step()` counts calls: a step that a `GradScaler` skipped counts, as in a learning-rate schedule. With several
    processes (`torch.distributed`) the choice of rank 0 holds for all; sharded parameters are not supported.

    Raises `SparsewoodError` for a pruning that cannot be carried out inside one training.

    >>> from sparsewood.schedules import Cubic
    >>> model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> pruner = Pruner(model, optimizer, Pruning(schedule=Cubic(0.9), rounds=3, unit="step", start=2, every=2))
    >>> for _ in range(8):
    ...     model(torch.ones(1, 4)).sum().backward()
    ...     optimizer.step()
    ...     pruner.step()
    >>> pruner.finish().sparsity
    0.9
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        pruning: Pruning,
        *,
        steps_per_epoch: int | None = None,
        data: Iterable[Any] | None = None,
        loss: Loss | None = None,
        masks: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        state: State | None = None,
        structure: Structure | None = None,
    ) -> None:
        self._model, self._pruning, self._data, self._loss, self._seed = model, pruning, data, loss, seed
        derive(seed)  # raises for what is no seed
        self._plan = timetable(pruning, steps_per_epoch)
        self._structure = structure
        if pruning.coupled and structure is None:
            raise SparsewoodError(
                "Pruner: Coupled() units are those of the network's structure: pass structure=sparsewood.trace(model, "
                "example_inputs)."
            )
        if pruning.reads_data and data is None:
            raise SparsewoodError(f"Pruner: {pruning.criterion} needs data: pass data=... (batches), and loss=...")
        self._steps = self._carried = 0
        self._soft = Masks({})
        self._keeper = enforce(model, {} if state or not masks else masks, innermost_optimizer(optimizer))
        self._finished = False
        try:
            if state is None:
                self._carry_out_due()
            else:
                self._require_identity(state[1])
                # Before `load` sets the zeros: weights that do not have them are those of another moment.
                self._require_zeros(_saved_masks(*state)[0])
                self.load(*state)
        except BaseException:
            self.close()
            raise

    @property
    def masks(self) -> Masks:
        """What is removed now: the masks that are held, and those of the last soft event."""
        return Masks.adopt({**self._keeper.masks, **self._soft})

    @property
    def sparsity(self) -> float:
        """The removed share of the parameters that have masks."""
        return self.masks.sparsity

    @property
    def steps(self) -> int:
        """How many training steps were done."""
        return self._steps

    @property
    def events(self) -> tuple[Event, ...]:
        """The events to come; `event.step` is the training step before which each takes place."""
        return self._plan[self._carried :]

    @property
    def done(self) -> bool:
        """Whether all events have taken place."""
        return not self.events

    def step(self) -> None:
        """Call this after every optimizer step: carries out the events that are due before the next.

        Raises `SparsewoodError` if the pruner was finished, or if an event finds that earlier zeros did not hold.
        """
        self._require_open()
        self._steps += 1
        self._carry_out_due()

    def finish(self) -> Masks:
        """Check that all was done and the zeros hold, end the enforcement, and return the final masks.

        Raises `SparsewoodError` if the training was too short for the plan (the zeros are then still held), or naming
        the parameter whose zeros did not hold. Further calls return the masks again.
        """
        if not self._finished:
            self._require_done()
            self._require_zeros()
            self.close()
        return self.masks

    def close(self) -> None:
        """End the enforcement without any check, as after an error."""
        self._finished = True
        self._keeper.remove()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What to save with the weights, so that a later pruner goes on from here: tensors and JSON values.

        The tensors are named "mask/<parameter>". Raises `SparsewoodError` if the zeros do not hold.
        """
        self._require_zeros()
        tensors = {f"{MASK}{name}": mask.to("cpu", copy=True) for name, mask in self.masks.items()}
        values = {"steps": self._steps, "carried": self._carried, "soft": sorted(self._soft), **self._identity()}
        return tensors, values

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `state()` returned, before or after the weights of then are loaded into the model.

        Of `tensors`, those that are not named "mask/..." are passed over. If the weights are loaded before the pruner
        is made, give it `state=` instead: otherwise the events of step 0 take place again, on the loaded weights.

        Raises `SparsewoodError` for the state of another plan or seed.
        """
        self._require_open()
        self._require_identity(values)
        self._keeper.masks, self._soft = _saved_masks(tensors, values)
        self._steps, self._carried = values["steps"], values["carried"]

    def __enter__(self) -> Pruner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish; after an error, close."""
        try:
            if error is None:
                self.finish()
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"Pruner({self._steps} steps done, {self._carried} of {len(self._plan)} events, {self.masks})"

    def _carry_out_due(self) -> None:
        while self.events and self.events[0].step <= self._steps:
            self._carry_out(self.events[0])
            self._carried += 1

    def _carry_out(self, event: Event) -> None:
        self._require_zeros()
        # A shuffling loader draws its order from the global state; seeded, it gives the same batches when resumed.
        with torch.random.fork_rng(devices=[]):
            seed = derive(self._seed, "prune", self._carried)
            torch.default_generator.manual_seed(seed)
            chosen = self._chosen(event, torch.Generator().manual_seed(seed))
        chosen = _of_rank_0(chosen)
        if self._pruning.coupled:  # none of whose events is soft
            self._keeper.masks = chosen
            return
        about = {entry.name for entry in self._pruning.parameters(self._model, event)}
        soft = {name: mask for name, mask in self._soft.items() if name not in about}
        if event.regrow:
            soft |= {name: chosen[name] for name in about}
            apply_masks(self._model, {name: chosen[name] for name in about})
        self._soft = Masks(soft)
        self._keeper.masks = Masks.adopt({name: mask for name, mask in chosen.items() if name not in soft})

    def _chosen(self, event: Event, generator: torch.Generator) -> Masks:
        model, masks = self._model, self._keeper.masks
        if self._structure is None or not self._pruning.coupled:
            return self._pruning.choose(model, event, masks, data=self._data, loss=self._loss, generator=generator)
        return choose_units(
            self._pruning, model, self._structure, event, masks, data=self._data, loss=self._loss, generator=generator
        )

    def _identity(self) -> dict[str, Any]:
        return {"plan": [[event.step, repr(event)] for event in self._plan], "seed": self._seed}

    def _require_identity(self, values: Mapping[str, Any]) -> None:
        require_identity("Pruner", self._identity(), values)

    def _require_open(self) -> None:
        if self._finished:
            raise SparsewoodError("This pruner was finished and enforces nothing. Make a new one for further training.")

    def _require_done(self) -> None:
        if self.events:
            left = len(self.events)
            steps = ", ".join(str(event.step) for event in self.events[:8]) + (", ..." if left > 8 else "")
            raise SparsewoodError(
                f"Pruner: {left} of {len(self._plan)} events did not take place, those before training step {steps}: "
                f"only {self._steps} steps were done, each with a call of step(). Train for at least "
                f"{self._plan[-1].step} steps, or let the plan start earlier or go faster."
            )

    def _require_zeros(self, masks: Masks | None = None) -> None:
        require_zeros("Pruner", self._model, self._keeper.masks if masks is None else masks, self._steps)


def require_identity(who: str, expected: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raise `SparsewoodError` if what was saved is not of the same pruning."""
    for what, wanted in expected.items():
        if values.get(what) != wanted:
            raise SparsewoodError(
                f"{who}: the saved state is of another pruning: its {what} is {values.get(what)!r}, here it is "
                f"{wanted!r}. Use the settings that it was saved with, or start anew."
            )


def require_zeros(who: str, model: nn.Module, masks: Masks, steps: int) -> None:
    """Raise `SparsewoodError` if masked entries are not zero."""
    found = not_held(model, masks)
    if found is not None:
        name, alive, removed = found
        raise SparsewoodError(
            f"{who}: {alive} of {removed} masked entries of {name!r} are not zero at "
            f"step {steps}. Something other than steps of the given optimizer wrote to it: another "
            "optimizer, load_state_dict, or code that put another parameter in its place. Make the optimizer "
            "from the model's present parameters, and load weights and pruner state of the same moment."
        )


def innermost_optimizer(optimizer: Any) -> Optimizer:
    """The PyTorch optimizer inside the wrappers of accelerate, Fabric and Lightning, whose hooks see every step.

    Raises `SparsewoodError` if there is none.

    >>> optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
    >>> innermost_optimizer(optimizer) is optimizer
    True
    """
    # The wrappers look like optimizers themselves, some by isinstance; each holds the one inside as `optimizer`.
    while hasattr(inner := getattr(optimizer, "optimizer", None), "param_groups"):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise SparsewoodError(f"Pruner needs the optimizer that trains the model. Got {optimizer!r:.80}.")
    return optimizer


def _saved_masks(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> tuple[Masks, Masks]:
    """Those that are held, and those of soft events."""
    found = {name.removeprefix(MASK): mask for name, mask in tensors.items() if name.startswith(MASK)}
    soft = {name: found.pop(name) for name in values["soft"]}
    return Masks(found), Masks(soft)


def _of_rank_0(masks: Masks) -> Masks:
    """With data of their own, processes would choose differently and their weights drift apart."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return masks
    bytes_of = {name: mask.to(torch.uint8) for name, mask in masks.items()}
    for name in sorted(bytes_of):
        distributed.broadcast(bytes_of[name], src=0)
    return Masks.adopt({name: mask.bool() for name, mask in bytes_of.items()})
