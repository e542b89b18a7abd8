"""What a network's weights are set to after pruning, and how it is trained again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.recovery.base import Follow, Recovery, Snapshot, require_step
from sparsewood.recovery.distill import Distillation
from sparsewood.recovery.drawing import Initializer
from sparsewood.recovery.initializers import LayerDefault

Same = Literal["epochs", "flops"]


@dataclass(frozen=True)
class FineTune(Recovery):
    """Train on from the weights that were pruned."""

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        del model, start, generator


@dataclass(frozen=True)
class Rewind(Recovery):
    """Go back to the weights, buffers, optimizer and schedule of step `step` of the dense network's training.

    Step 0 is the lottery ticket's start; a little later is more stable.
    Source: Frankle et al. 2019, "Stabilizing the Lottery Ticket Hypothesis", https://arxiv.org/abs/1903.01611.

    >>> Rewind(500).snapshots, Rewind(500).follow.step
    ((500,), 500)
    """

    step: int = 0

    def __post_init__(self) -> None:
        require_step(self.step)

    @property
    def snapshots(self) -> tuple[int, ...]:
        return (self.step,)

    @property
    def follow(self) -> Follow:
        return Follow("training", self.step, restore_optimizer=True)

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        del generator
        model.load_state_dict(dict(start))  # copies values, so that the snapshot stays what it is


@dataclass(frozen=True)
class RewindRate(Recovery):
    """Keep the weights, and go back to step `step` in the schedule of the learning rate.

    Source: Renda et al. 2020, "Comparing Rewinding and Fine-tuning in Neural Network Pruning",
    https://arxiv.org/abs/2003.02389.

    >>> RewindRate(500).snapshots, RewindRate(500).follow.step
    ((), 500)
    """

    step: int = 0

    def __post_init__(self) -> None:
        require_step(self.step)

    @property
    def follow(self) -> Follow:
        return Follow("training", self.step)

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        del model, start, generator


@dataclass(frozen=True)
class RewindToBest(Recovery):
    """`Rewind` to that step of several whose weights, masked, score best; the first of equals.

    Source: rewinding as of Frankle et al. 2019, https://arxiv.org/abs/1903.01611, with the step chosen on validation
    data.

    >>> RewindToBest((0, 100, 200)).pick({0: 0.1, 100: 0.7, 200: 0.7}.__getitem__)
    100
    """

    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.steps, list | tuple) or not self.steps:
            raise SparsewoodError(f"RewindToBest takes the steps to choose from, as (0, 500). Got {self.steps!r}.")
        for step in self.steps:
            require_step(step)
        object.__setattr__(self, "steps", tuple(self.steps))

    @property
    def snapshots(self) -> tuple[int, ...]:
        return self.steps

    @property
    def follow(self) -> Follow:
        return Follow("training", restore_optimizer=True)

    def pick(self, score: Callable[[int], float]) -> int:
        scores = {step: score(step) for step in self.steps}
        wrong = next((step for step, value in scores.items() if math.isnan(value)), None)
        if wrong is not None:
            raise SparsewoodError(f"RewindToBest: the score of step {wrong} is NaN, so that no step is best.")
        return max(self.steps, key=lambda step: scores[step])

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        del generator
        model.load_state_dict(dict(start))


@dataclass(frozen=True)
class Reinitialize(Recovery):
    """Draw new weights and train from the start: the control that keeps only the structure.

    `how`: `LayerDefault()`, `Original()` (the first weights, as `Rewind(0)`), `Normal()`, `VarianceScaling()`,
    `Orthogonal()`, `DeltaOrthogonal()` or `ConvolutionOrthogonal()`.
    Source: the random re-initialisation control of Frankle and Carbin 2019, https://arxiv.org/abs/1803.03635.

    >>> from sparsewood.recovery.initializers import Orthogonal
    >>> Reinitialize(Orthogonal()).follow
    Follow(settings='training', step=0, restore_optimizer=False, same_flops=False, distillation=None)
    """

    how: Initializer = field(default_factory=LayerDefault)

    def __post_init__(self) -> None:
        if not isinstance(self.how, Initializer):
            raise SparsewoodError(
                f"Reinitialize takes an initializer, for example Reinitialize(Orthogonal()). Got {self.how!r}."
            )

    @property
    def snapshots(self) -> tuple[int, ...]:
        return self.how.snapshots

    @property
    def follow(self) -> Follow:
        return Follow("training")

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        self.how(model, start, generator)


@dataclass(frozen=True)
class Scratch(Recovery):
    """New weights and the whole training again, for as many epochs, or for as many multiply-adds.

    With "flops" training is lengthened by dense multiply-adds / those of the masked network (scratch-B; "epochs" is
    scratch-E). Source: Liu et al. 2019, "Rethinking the Value of Network Pruning", https://arxiv.org/abs/1810.05270.

    >>> Scratch("flops").follow.same_flops
    True
    """

    same: Same = "epochs"

    def __post_init__(self) -> None:
        if self.same not in get_args(Same):
            raise SparsewoodError(f"Scratch: same must be one of {get_args(Same)}. Got {self.same!r}.")

    @property
    def follow(self) -> Follow:
        return Follow("training", same_flops=self.same == "flops")

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        LayerDefault()(model, start, generator)


@dataclass(frozen=True)
class Distill(Recovery):
    """Train on from the weights that were pruned, with the dense network as a teacher; see `Distillation`.

    loss = weight * T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - weight) * loss on the labels.
    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531.

    >>> Distill(weight=0.5).follow.distillation
    Distillation(temperature=4.0, weight=0.5)
    """

    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self) -> None:
        Distillation(self.temperature, self.weight)

    @property
    def follow(self) -> Follow:
        return Follow("retraining", distillation=Distillation(self.temperature, self.weight))

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        del model, start, generator
