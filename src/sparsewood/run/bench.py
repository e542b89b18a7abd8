"""What all trainings of one seed of a recipe share: data, model, devices, and where their stages lie."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsewood.data.loader import Loader
from sparsewood.data.part import Part
from sparsewood.data.split import Split
from sparsewood.distributed import rank, world
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import to_model_device
from sparsewood.measurement import Macs, count_macs, evaluate
from sparsewood.run.directory import Stage
from sparsewood.run.progress import Advance
from sparsewood.run.recipe import Recipe, Variant
from sparsewood.run.weights import load_weights
from sparsewood.seeds import derive, generator_for
from sparsewood.state import TrainingState, restore
from sparsewood.structure import Structure, trace
from sparsewood.train import Training
from sparsewood.types import Masks

__all__ = ["Bench", "Trained", "last_masks", "load_split"]

DENSE = "dense"
FINAL = "final.safetensors"
MASKS = "masks.safetensors"


DRY_IMAGES = 8
"""How many images a dry run augments for scores."""


@dataclass(frozen=True)
class Trained:
    """A finished training: where it lies, and what was noted about it."""

    stage: Stage
    notes: dict[str, Any]

    @classmethod
    def of(cls, stage: Stage) -> Trained | None:
        """What a stage came to; None if it is not finished."""
        notes = stage.done
        return None if notes is None else cls(stage, notes)

    @property
    def fingerprint(self) -> str:
        """Of the weights at its end."""
        return self.notes["fingerprint"]

    def state(self) -> TrainingState:
        """The weights at its end."""
        return TrainingState.load(self.stage.directory / FINAL)


def last_masks(directory: Path) -> Masks | None:
    """The masks with which a training in `directory`, or the last of several below it, ended; None if it has none."""
    found = [*directory.glob(MASKS), *directory.glob(f"*/{MASKS}")]
    last = max(found, key=lambda path: (len(path.parts), len(path.parent.name), path.parent.name), default=None)
    return None if last is None else Masks.load(last)  # round-99, -100


def load_split(recipe: Recipe) -> Split:
    """The data of a recipe, the same for all its seeds.

    Raises `SparsewoodError` if its function gives something else than a `Split`.
    """
    split = recipe.data.build()
    if not isinstance(split, Split):
        raise SparsewoodError(f"data: {recipe.data.name} must give a Split. Got {type(split).__name__}.")
    return split


@dataclass(frozen=True)
class Bench:
    """One seed of a recipe. A dry run takes one batch through everything."""

    recipe: Recipe
    split: Split
    root: Path
    seed: int
    fabric: Any
    advance: Advance = field(repr=False)
    dry_run: bool = False

    def stage(self, *names: str) -> Stage:
        """The stage of that name, with its directory made."""
        directory = self.root.joinpath(f"seed-{self.seed}", *names)
        directory.mkdir(parents=True, exist_ok=True)
        return Stage(directory)

    # ------------------------------------------------------------ material

    def network(self) -> nn.Module:
        """A new network, the same for the same seed, on the device of the run."""
        model = self._built()
        if self.recipe.initial is not None:
            self.recipe.initial(model, {}, generator_for(self.seed, "initial"))
        if self.recipe.weights is not None:
            load_weights(model, self.recipe.weights)
        return self._placed(model)

    def network_at(self, state: TrainingState) -> nn.Module:
        """A network with the weights of `state`."""
        model = self._built()
        restore(state, model)
        return self._placed(model)

    def _built(self) -> nn.Module:
        return self.recipe.model.build(generator=generator_for(self.seed, "weights"))

    def _placed(self, model: nn.Module) -> nn.Module:
        return self.fabric.to_device(model) if self.fabric is not None else model

    def finished(self, *names: str) -> Trained:
        """What the stage of that name came to."""
        trained = Trained.of(self.stage(*names))
        assert trained is not None, f"stage {'/'.join(names)} of seed {self.seed} is not finished"
        return trained

    def loader(self, training: Training, seed: int = 0) -> Loader:
        """Training batches: in a new order each epoch, augmented as the recipe says."""
        return Loader(
            self._cut(self.split.train, training.batch_size),
            training.batch_size,
            seed=seed,
            augment=self.recipe.augment,
            rank=rank(),
            world=world(),
            workers=self.recipe.workers,
        )

    def plain(self, part: Any) -> Loader:
        """Batches of a whole part as it is: in order, not augmented."""
        size = self.recipe.test_batch_size
        return Loader(self._cut(part, size), size, workers=self.recipe.workers)

    def validation(self) -> Loader | None:
        """This process's share of the validation part, for `fit`; None if there is no such part."""
        if not len(self.split.validation):
            return None
        size = self.recipe.test_batch_size
        part = self._cut(self.split.validation, size)
        return Loader(part, size, rank=rank(), world=world(), workers=self.recipe.workers)

    def scoring(self, number: int, *, shared: bool) -> Loader:
        """What a data-driven criterion sees, in the order of round `number`: training data, not augmented.

        `shared` between processes, whose statistics are then to be added up, or all of it in each process.
        """
        size = self.recipe.training.batch_size
        return Loader(
            self._cut(self.split.train, size),
            size,
            seed=derive(self.seed, "scoring", number),
            rank=rank() if shared else 0,
            world=world() if shared else 1,
        )

    def images(self, number: int, count: int | None) -> Part:
        """What a criterion sees that augments by itself, in round `number`: training images, not augmented.

        `count` of them, others in each round, in the order of the data; None means all.
        """
        part = self._cut(self.split.train, DRY_IMAGES)  # each is run several times
        if count is None or count >= len(part):
            return part
        drawn = torch.randperm(len(part), generator=generator_for(self.seed, "images", number))[:count]
        return part.subset(drawn.sort().values)

    def structure(self, model: nn.Module) -> Structure:
        """What hangs together in a network of this run."""
        return trace(model, to_model_device(torch.zeros(1, *self.split.input_shape), model))

    def _cut(self, part: Any, size: int) -> Any:
        size = min(size, self.recipe.training.batch_size, len(part))
        return part.subset(torch.arange(size)) if self.dry_run else part

    @property
    def writes(self) -> bool:
        """Whether this process writes files: the first of several does."""
        return rank() == 0

    def together(self) -> None:
        """Wait until all processes are here."""
        if self.fabric is not None:
            self.fabric.barrier()

    def agreed(self, value: bool) -> bool:
        """What the first process says."""
        return self.fabric.broadcast(value) if self.fabric is not None else value

    def macs(self, model: nn.Module) -> Macs:
        """Multiply-adds of one example."""
        return count_macs(model, to_model_device(torch.zeros(1, *self.split.input_shape), model))

    # ------------------------------------------------------------ settings

    @property
    def training(self) -> Training:
        """How the dense network is trained."""
        return self.shortened(self.recipe.training)

    def retraining(self, variant: Variant) -> Training:
        """How a pruned network is fine-tuned."""
        return self.shortened(variant.retraining or self.recipe.training)

    def shortened(self, settings: Training) -> Training:
        """The settings, or in a dry run those of one epoch."""
        return replace(settings, epochs=min(1, settings.epochs)) if self.dry_run else settings

    def accuracy(self, model: nn.Module) -> float:
        """On the validation part."""
        if not len(self.split.validation):
            raise SparsewoodError(f"{self.split.name} has no validation part, and one is needed to choose by.")
        return evaluate(model, self.plain(self.split.validation), topk=(1,)).top[1]
