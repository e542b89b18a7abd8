"""What changes masks while a network trains: pure functions of one moment of the training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsewood.allocation.budgets import Layer
from sparsewood.errors import SparsewoodError

__all__ = ["Dynamics", "Memory", "Moment"]

Memory = dict[str, dict[str, Tensor]]
"""What a rule remembers: by what it is, then by parameter."""


@dataclass(frozen=True)
class Moment:
    """One moment of a training, as a rule sees it.

    Args:
        step: how many of the `steps` of the training are done.
        layers: the parameters that have masks, in model order.
        weights: by parameter name; where masked weights go on learning, also of those.
        gradients: of the loss by what the network computes with (masked weights), from the step just done, or, when a
            rule observes, of the step that is about to be done; empty for a rule that does not ask for them.
        masks: those in force.
        memory: what the rule remembers.
        generator: for what is random.
    """

    step: int
    steps: int
    layers: tuple[Layer, ...]
    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    generator: torch.Generator
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)


@dataclass(frozen=True)
class Dynamics(ABC):
    """A rule for masks that change while a network trains.

    Masks are updated after every `every` steps of the training, from the share `start` of its steps (but at least one
    step) to the share `stop`, and stay as they are afterwards. All methods are pure.

    `masked_learn`: whether masked weights go on learning beside the model (see `masks.soften`; "all" or "kept" says by
    which gradient), or are zero until a mask gives them back (None, see `masks.enforce`). `reads_gradients`: whether
    `update` reads gradients; it is left out at a step that did not take place. `observes`: whether `observe` is to see
    every step.
    """

    masked_learn: ClassVar[Literal["all", "kept"] | None] = None
    reads_gradients: ClassVar[bool] = False
    observes: ClassVar[bool] = False

    _: KW_ONLY
    every: int = 100
    start: float = 0.0
    stop: float = 0.75

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise SparsewoodError(
                f"{type(self).__name__}: every must be a whole number of steps >= 1. Got {self.every!r}."
            )
        if not 0 <= self.start < self.stop <= 1:
            raise SparsewoodError(
                f"{type(self).__name__}: start and stop are shares of the training, 0 <= start < stop <= 1. Got "
                f"{self.start!r} and {self.stop!r}."
            )
        self.require()

    def require(self) -> None:  # noqa: B027 (most rules have nothing to refuse)
        """Raise `SparsewoodError` for fields of the rule that cannot be."""

    def require_layers(self, layers: Sequence[Layer], steps: int) -> None:  # noqa: B027
        """Raise `SparsewoodError` for parameters of which some update of a training cannot make masks."""

    @property
    @abstractmethod
    def target(self) -> float | None:
        """The sparsity at the end, exactly; None if the rule does not fix it."""

    def times(self, steps: int) -> range:
        """After how many steps of a training of `steps` the masks are updated.

        Raises `SparsewoodError` if they never are.
        """
        first = max(1, math.ceil(self.start * steps - 1e-9))
        found = range(first, math.floor(self.stop * steps + 1e-9) + 1, self.every)
        if not found:
            raise SparsewoodError(
                f"{self}: no update falls into a training of {steps} steps: they would be from step {first} to "
                f"{self.stop:g} of it. Train longer, or let the rule stop later."
            )
        return found

    def progress(self, moment: Moment) -> float:
        """How far the updates have come with the one of this moment: (i + 1) / n for number i of n."""
        times = self.times(moment.steps)
        return (times.index(moment.step) + 1) / len(times)

    def first(self, moment: Moment) -> dict[str, Tensor]:
        """The masks before the first step; here nothing is removed yet."""
        return {layer.name: torch.ones_like(moment.weights[layer.name], dtype=torch.bool) for layer in moment.layers}

    def remembered(self, moment: Moment) -> Memory:  # noqa: ARG002
        """What the rule remembers before the first step, when `moment.masks` are those of `first`."""
        return {}

    def observe(self, moment: Moment) -> Memory:
        """What the rule remembers after seeing the gradient of the step that is about to be done."""
        return moment.memory

    @abstractmethod
    def update(self, moment: Moment) -> dict[str, Tensor]:
        """The new masks, of all layers."""
