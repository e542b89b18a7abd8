"""Masks that change while training, carried out in anybody's training loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewood.algebra import round_half_even
from sparsewood.allocation.budgets import Layer
from sparsewood.dynamics.base import Dynamics, Memory, Moment
from sparsewood.errors import SparsewoodError
from sparsewood.masks import Keeper, SoftKeeper, enforce, soften
from sparsewood.parameters import Entry, Selectors, choose
from sparsewood.seeds import generator_for
from sparsewood.train.gradients import gradient_of, on_gradients
from sparsewood.train.pruner import MASK, State, innermost_optimizer, require_identity, require_zeros
from sparsewood.types import Masks

__all__ = ["DynamicPruner"]

logger = logging.getLogger(__name__)

DENSE, MEMORY = "dense/", "memory/"


class DynamicPruner:
    """Carries out `dynamics` while somebody else trains `model`: one call after every step, and one at the end.

    The first masks are in force when it is made. After step t of the training (counted from 1) masks are updated in
    the `step()` that ends it, if t is one of `dynamics.times(steps)`. What is masked is exactly zero whenever the model
    is looked at, also where masked weights go on learning (see `masks.soften`).

    Args:
        optimizer: a PyTorch optimizer, or one that accelerate, Fabric or Lightning wrapped around it. It must update
            all parameters that are chosen. A step with a closure, as Lightning's automatic optimization takes, is only
            for rules by which masked weights are zero until they come back (SET, RigL); others refuse it.
        steps: how many optimizer steps the training has.
        include, exclude, protect_classifier: the parameters, as in `prune`.
        seed: for what is random; the update after step t draws from `derive(seed, "dynamics", t)`.
        state: what `state()` returned, to go on from there; needed where the weights of then are loaded already.

    Gradients are read as the optimizer sees them: summed over several backward passes, clipped, unscaled; of a closure
    those of its first evaluation; a weight that a step left without a gradient has one of 0. `step()` counts calls: a
    step that a `GradScaler` skipped counts. A rule that sums gradients up sees nothing of it, and a rule that reads
    those of the step leaves the masks as they are if its update falls on it (a warning says so). Sharded parameters are
    not supported.

    Raises `SparsewoodError` for parameters that cannot be masked or that are not trained, for a sparsity that they
    cannot have, and if no update falls into the training.

    >>> from sparsewood.dynamics import RigL
    >>> model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> pruner = DynamicPruner(model, optimizer, RigL(0.5, every=2), steps=8)
    >>> for _ in range(8):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(1, 4)).sum().backward()
    ...     optimizer.step()
    ...     pruner.step()
    >>> pruner.finish().sparsity
    0.5
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        dynamics: Dynamics,
        *,
        steps: int,
        include: Selectors | None = None,
        exclude: Selectors | None = None,
        protect_classifier: bool = True,
        seed: int = 0,
        state: State | None = None,
    ) -> None:
        if not isinstance(dynamics, Dynamics):
            raise SparsewoodError(f"DynamicPruner needs dynamics, for example RigL(0.9). Got {dynamics!r:.80}.")
        self._model, self._dynamics, self._all_steps, self._seed = model, dynamics, steps, seed
        self._times = dynamics.times(steps)
        chosen = choose(model, include=include, exclude=exclude, protect_classifier=protect_classifier)
        inner = innermost_optimizer(optimizer)
        _require_trained(chosen, inner)
        self._owners = {entry.name: entry.parameter for entry in chosen}
        self._layers = tuple(_layer(entry) for entry in chosen)
        dynamics.require_layers(self._layers, steps)
        self._optimizer, self._steps, self._stepped, self._finished = inner, 0, False, False
        self._gradients: dict[str, Tensor] = {}
        self._memory: Memory = {}
        self._keeper: Keeper | SoftKeeper | None = None
        weights = {name: owner.detach() for name, owner in self._owners.items()}
        # With a state the weights may be those of then already, of which the first masks would clear some.
        masks = dynamics.first(self._moment({}, weights)) if state is None else _part(state[0], MASK)
        # Before the keeper's, so that gradients are read as the backward pass left them.
        self._handle = on_gradients(inner, self._look)
        try:
            self._keeper = _keeper(model, masks, inner, dynamics.masked_learn)
            self._memory = dynamics.remembered(self._moment(self._keeper.masks, self._weights()))
            if state is not None:
                self.load(*state)
        except BaseException:
            self.close()
            raise

    @property
    def masks(self) -> Masks:
        """The masks in force."""
        assert self._keeper is not None
        return self._keeper.masks

    @property
    def sparsity(self) -> float:
        """The removed share of the parameters that have masks."""
        return self.masks.sparsity

    @property
    def steps(self) -> int:
        """How many training steps were done."""
        return self._steps

    @property
    def done(self) -> bool:
        """Whether all updates have taken place."""
        return self._steps >= self._times[-1]

    def step(self) -> None:
        """Call this after every optimizer step: updates the masks if it is time.

        Raises `SparsewoodError` if the pruner was finished, or if zeros did not hold.
        """
        self._require_open()
        self._steps += 1
        if self._steps not in self._times:
            return
        self._require_zeros()
        if not self._saw_enough():
            logger.warning(
                "%s: the optimizer did not step at step %d of %d (a GradScaler skips steps, or step() was called "
                "before optimizer.step()), so that there are no gradients: the masks stay as they are.",
                self._dynamics, self._steps, self._all_steps,
            )  # fmt: skip
            return
        assert self._keeper is not None
        masks = self._dynamics.update(self._moment(self.masks, self._weights(), self._gradients))
        self._keeper.masks = Masks.adopt(dict(masks))
        self._gradients = {}

    def finish(self) -> Masks:
        """Check that all was done, the target was hit and zeros hold; end it, and return the final masks.

        Raises `SparsewoodError` if the training was too short, if the optimizer never stepped although the rule needs
        gradients, or naming the parameter whose zeros did not hold. Further calls return the masks again.
        """
        if not self._finished:
            self._require_done()
            self._require_zeros()
            self._require_target()
            self.close()
        return self.masks

    def close(self) -> None:
        """End it without any check, as after an error. What is masked stays zero until somebody trains it."""
        self._finished = True
        self._handle.remove()
        if self._keeper is not None:
            self._keeper.remove()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What to save with the weights, so that a later pruner goes on from here: tensors and JSON values.

        Tensors are "mask/<parameter>", "dense/<parameter>" where masked weights go on learning, and
        "memory/<what>/<parameter>". Raises `SparsewoodError` if the zeros do not hold.
        """
        self._require_zeros()
        tensors = {f"{MASK}{name}": mask.to("cpu", copy=True) for name, mask in self.masks.items()}
        if isinstance(self._keeper, SoftKeeper) and not self._finished:
            tensors |= {f"{DENSE}{name}": weight.to("cpu") for name, weight in self._keeper.dense.items()}
        for what, by_name in self._memory.items():
            tensors |= {f"{MEMORY}{what}/{name}": tensor.to("cpu", copy=True) for name, tensor in by_name.items()}
        return tensors, {"step": self._steps, **self._identity()}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `state()` returned, before or after the weights of then are loaded into the model.

        Raises `SparsewoodError` for the state of other dynamics, another length of training or another seed.
        """
        self._require_open()
        require_identity("DynamicPruner", self._identity(), values)
        assert self._keeper is not None
        self._keeper.masks = Masks(_part(tensors, MASK))
        if isinstance(self._keeper, SoftKeeper):
            self._keeper.dense = _part(tensors, DENSE)
        for what, by_name in self._memory.items():
            saved = _part(tensors, f"{MEMORY}{what}/")
            self._memory[what] = {name: saved[name].to(now.device, copy=True) for name, now in by_name.items()}
        self._steps = values["step"]
        self._stepped = self._steps > 0

    def __repr__(self) -> str:
        return f"DynamicPruner({self._dynamics}, {self._steps} of {self._all_steps} steps done, {self.masks})"

    def _moment(
        self, masks: Mapping[str, Tensor], weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor] | None = None
    ) -> Moment:
        generator, given = generator_for(self._seed, "dynamics", self._steps), gradients or {}
        return Moment(self._steps, self._all_steps, self._layers, weights, masks, generator, given, self._memory)

    def _weights(self) -> dict[str, Tensor]:
        if isinstance(self._keeper, SoftKeeper):
            return self._keeper.dense
        return {name: owner.detach() for name, owner in self._owners.items()}

    def _look(self) -> None:
        """The gradients of the step that is about to be done."""
        self._stepped = True
        rule, reads = self._dynamics, self._dynamics.reads_gradients and self._steps + 1 in self._times
        if not rule.observes and not reads:
            return
        with torch.no_grad():
            found = {name: gradient_of(owner, self._optimizer) for name, owner in self._owners.items()}
            if rule.observes:
                self._memory = rule.observe(self._moment(self.masks, self._weights(), found))
            if reads:  # after the step, in which optimizers may write over gradients
                self._gradients = {name: gradient.clone() for name, gradient in found.items()}

    def _saw_enough(self) -> bool:
        return (self._stepped or not self._dynamics.observes) and (
            bool(self._gradients) or not self._dynamics.reads_gradients
        )

    def _identity(self) -> dict[str, Any]:
        return {"dynamics": repr(self._dynamics), "steps": self._all_steps, "seed": self._seed}

    def _require_open(self) -> None:
        if self._finished:
            raise SparsewoodError("This pruner was finished. Make a new one for further training.")

    def _require_done(self) -> None:
        if not self.done:
            raise SparsewoodError(
                f"DynamicPruner: the last update is after step {self._times[-1]} of {self._all_steps}, and only "
                f"{self._steps} steps were done, each with a call of step(). Train on, or pass the right steps=..."
            )
        if not self._stepped and (self._dynamics.reads_gradients or self._dynamics.observes):
            raise SparsewoodError(
                f"DynamicPruner: {self._dynamics} goes by gradients, and the optimizer did not step once in "
                f"{self._steps} steps. Pass the optimizer that trains the model, and call its step() before this one's."
            )

    def _require_zeros(self) -> None:
        require_zeros("DynamicPruner", self._model, self.masks, self._steps)

    def _require_target(self) -> None:
        target = self._dynamics.target
        if target is not None and self.masks.removed != round_half_even(target * self.masks.total):
            raise SparsewoodError(
                f"DynamicPruner: {self._dynamics} ended with {self.masks.removed:,} of {self.masks.total:,} weights "
                f"removed, expected {round_half_even(target * self.masks.total):,}. Its update() must hit its target."
            )


def _keeper(
    model: nn.Module, masks: Mapping[str, Tensor], optimizer: Optimizer, masked_learn: Literal["all", "kept"] | None
) -> Keeper | SoftKeeper:
    given = Masks.adopt(dict(masks))
    if masked_learn is None:
        return enforce(model, given, optimizer)
    return soften(model, given, optimizer, gradient=masked_learn)


def _require_trained(chosen: Sequence[Entry], optimizer: Optimizer) -> None:
    """What never moves has no gradient to go by, and what comes back from 0 would stay there."""
    managed = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for entry in chosen:
        if not entry.parameter.requires_grad:
            reason = f"{entry.name!r} needs no gradient"
        elif id(entry.parameter) not in managed:
            reason = f"the {type(optimizer).__name__} optimizer does not update {entry.name!r}"
        else:
            continue
        raise SparsewoodError(
            f"DynamicPruner: {reason}, and masks that change are for weights that are trained. Leave it out with "
            f"exclude=[{entry.name!r}], or train it: with the optimizer that was built from this model's parameters."
        )


def _layer(entry: Entry) -> Layer:
    units = entry.parameter.numel()
    return Layer(entry.name, entry.aliases, tuple(entry.parameter.shape), units, min(1, units), type(entry.module))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
