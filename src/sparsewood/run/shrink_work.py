"""Carrying out a shrink recipe: the dense network, its small copy, what makes good for the loss, and the measuring."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.data.loader import Loader
from sparsewood.data.part import Part
from sparsewood.data.split import Split
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import describe, map_tensors
from sparsewood.measurement import Evaluation, Latency, compare_latency, evaluate
from sparsewood.models.examples import example_inputs, inputs_of_shapes
from sparsewood.recovery.batchnorm import recalibrate
from sparsewood.recovery.least_squares import reconstruct
from sparsewood.run.begun import require_same_inputs
from sparsewood.run.bench import DENSE, Bench, Trained, load_split
from sparsewood.run.calls import Call
from sparsewood.run.directory import Stage
from sparsewood.run.experiment import train_dense
from sparsewood.run.progress import Advance, no_progress
from sparsewood.run.shrink_recipe import LeastSquares, ShrinkRecipe
from sparsewood.run.weights import load_weights
from sparsewood.seeds import derive, generator_for
from sparsewood.shrinking.budgets import Latency as LatencyBudget
from sparsewood.shrinking.report import ShrinkReport
from sparsewood.shrinking.shrink import Shrunk, preview, shrink
from sparsewood.structure.names import counted
from sparsewood.train import fit, make_fabric
from sparsewood.unit_criteria import needs_data, reads_images

__all__ = ["BATCH_SIZES", "Outcome", "Work"]

BATCH_SIZES = (1, 16)
"""How many examples there are in the forwards that are timed."""


@dataclass(frozen=True)
class Outcome:
    """What came out.

    `validation` are the dense network and the small one after each thing that was done to it, in that order; `notes`
    say of the latter what they did. `latency` are those of the dense and of the small network, by batch size. `inputs`
    are the example inputs, in words.
    """

    dense: nn.Module
    shrunk: Shrunk
    inputs: str = ""
    validation: Mapping[str, Evaluation] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    latency: Mapping[int, tuple[Latency, Latency]] = field(default_factory=dict)


class Work:
    """One recipe, and what there is to carry it out with; `advance` is called with what is being done."""

    def __init__(self, recipe: ShrinkRecipe) -> None:
        self.recipe = recipe
        self.advance: Advance = no_progress

    # ------------------------------------------------------------ material

    @cached_property
    def fabric(self) -> Any:
        """What everything runs on."""
        training = self.recipe.training if self.recipe.trains else self.recipe.retraining
        return make_fabric(self.recipe.device, precision=training.precision if training else "32-true")

    @cached_property
    def split(self) -> Split | None:
        """The data; None if the recipe has none."""
        return None if self.recipe.data is None else load_split(self.recipe.dense)

    @cached_property
    def bench(self) -> Bench | None:
        """What trainings are done on; None without data."""
        if self.split is None:
            return None
        recipe = self.recipe.dense

        def advance(doing: str, steps: int = 1, /) -> None:
            self.advance(doing, steps)  # whatever it is then

        return Bench(recipe, self.split, self.recipe.dense_directory, self.recipe.seed, self.fabric, advance)

    def new_network(self) -> nn.Module:
        """The network as it is built, or with the weights from the recipe's file."""
        model = self._model.build(generator=generator_for(self.recipe.seed, "weights"))
        if self.recipe.weights is not None:
            load_weights(model, self.recipe.weights)
        return self.fabric.to_device(model)

    @property
    def _model(self) -> Call:
        model = self.recipe.model
        if self.recipe.data is None and model.name.startswith("transformers:"):
            return replace(model, parameters={"task": "any", **model.parameters})  # as `sparsewood inspect` has it
        return model

    def trained_before(self) -> Trained | None:
        """The dense network, if it was trained by an earlier command; no directory is made."""
        if not self.recipe.trains:
            return None
        directory = self.recipe.dense_directory / f"seed-{self.recipe.seed}" / DENSE
        return Trained.of(Stage(directory)) if directory.is_dir() else None

    def network(self) -> nn.Module:
        """The dense network, as far as it is there: not trained, if that is still to be done."""
        trained = self.trained_before()
        if trained is None:
            return self.new_network()
        assert self.bench is not None
        return self.bench.network_at(trained.state())

    def dense_network(self) -> nn.Module:
        """The dense network; it is trained if the recipe says so and no earlier command did."""
        if not self.recipe.trains:
            return self.new_network()
        assert self.bench is not None
        return self.bench.network_at(train_dense(self.bench).state())

    def examples(self, model: nn.Module) -> Any:
        """What the network is traced and compared on."""
        if self.recipe.inputs:
            return inputs_of_shapes(model, self.recipe.inputs)
        if self.split is not None:
            return self.split.train.batch(torch.arange(1))[0]
        name, parameters = self._model.name, self._model.parameters
        try:
            return example_inputs(model, name, **parameters)
        except SparsewoodError as error:
            raise SparsewoodError(
                f"{error} In a recipe: inputs: ['1,3,224,224'], or data, whose first example it then is."
            ) from error

    def batches(self) -> Loader | None:
        """Training examples, in no special order and not augmented: those that settings of `shrink` see."""
        if self.bench is None:
            return None
        return Loader(self._samples(), self.bench.recipe.training.batch_size, workers=self.recipe.workers)

    def _samples(self) -> Part:
        assert self.bench is not None
        part = self.bench.split.train
        order = torch.randperm(len(part), generator=generator_for(self.recipe.seed, "samples"))
        return part.subset(order[: self.recipe.shrink.samples])

    # ------------------------------------------------------------ before the work

    def check(self) -> str | None:
        """Find out before the training what cannot be done after it; a warning, if there is one.

        Raises `SparsewoodError`. What a latency budget allows is not found out, since that takes measuring.
        """
        if not self.recipe.trains or self.bench is None:
            return None
        warning = require_same_inputs(self.bench.root, self.bench.recipe, self.bench.split, self.fabric.device)
        if not isinstance(self.recipe.shrink.budget, LatencyBudget):
            with _silently():  # what is said of weights that are not trained is of no interest
                self.preview()
        return warning

    def preview(self) -> ShrinkReport:
        """What would go, of the network as far as it is there."""
        model = self.network()
        return preview(model, self.examples(model), **self._choice())

    # ------------------------------------------------------------ the work

    def carry_out(self) -> Outcome:
        """Train, shrink, recover, measure."""
        dense = self.dense_network()
        inputs = self.examples(dense)
        settings = self.recipe.shrink
        shrunk = shrink(
            dense, inputs, **self._choice(), bias_propagation=settings.bias_propagation, verify=settings.verify
        )
        found, notes = dict(self._validated("dense", dense)), dict[str, str]()
        found |= self._validated("shrunk", shrunk.model)
        for name, note in self._recovered(dense, shrunk):
            notes[name] = note
            found |= self._validated(name, shrunk.model)
        return Outcome(dense, shrunk, describe(inputs), found, notes, self._timed(dense, shrunk.model, inputs))

    def tested(self, outcome: Outcome) -> dict[str, Evaluation]:
        """The dense and the small network on the test part, which is opened here and nowhere else."""
        if self.bench is None:
            return {}
        self.advance("test", 0)
        test = self.bench.plain(self.bench.split.test.open())
        networks = {"dense": outcome.dense, "small": outcome.shrunk.model}
        return {name: evaluate(model, test, topk=(1,)) for name, model in networks.items()}

    def steps(self) -> int | None:
        """About how many training steps are still to be done; None if there is no training, only shrinking."""
        if self.bench is None:
            return None
        dense = self.recipe.training if self.recipe.trains and self.trained_before() is None else None
        trainings = [training for training in (dense, self.recipe.retraining) if training is not None]
        return sum(training.epochs * len(self.bench.loader(training)) for training in trainings) or None

    def _choice(self) -> dict[str, Any]:
        """What `shrink` and `preview` are told alike."""
        settings = self.recipe.shrink
        given = {} if settings.sparsity is None else {"sparsity": settings.sparsity}
        return {
            **given,
            "criterion": settings.criterion,
            "scope": settings.scope,
            "budget": settings.budget,
            "data": self._seen(),
            "loss": nn.functional.cross_entropy if needs_data(settings.criterion) else None,
            "protect": settings.protect,
            "round_to": settings.round_to,
            "min_units": settings.min_units,
            "generator": generator_for(self.recipe.seed, "shrink"),
            "attention": settings.attention,
            "inexact": settings.inexact,
            "progress": lambda name: self.advance(f"shrink: {name}", 0),
        }

    def _seen(self) -> Loader | Part | None:
        """What the criterion and bias propagation see."""
        settings = self.recipe.shrink
        if reads_images(settings.criterion):
            return None if self.bench is None else self._samples()
        return self.batches() if needs_data(settings.criterion) or settings.bias_propagation else None

    def _validated(self, name: str, model: nn.Module) -> dict[str, Evaluation]:
        if self.bench is None or not len(self.bench.split.validation):
            return {}
        self.advance(f"validation: {name}", 0)
        return {name: evaluate(model, self.bench.plain(self.bench.split.validation), topk=(1,))}

    def _recovered(self, dense: nn.Module, shrunk: Shrunk) -> Iterator[tuple[str, str]]:
        """Do what makes good for the removal, one thing after the other: its name, and a line about it."""
        settings, data = self.recipe.shrink, self.batches()
        if settings.least_squares is not False:
            assert data is not None
            self.advance("least squares", 0)
            wanted = settings.least_squares if isinstance(settings.least_squares, LeastSquares) else LeastSquares()
            made = reconstruct(
                shrunk.model, dense, data, kept=shrunk.plan.kept, samples=wanted.samples, ridge=wanted.ridge,
                generator=generator_for(self.recipe.seed, "least squares"),
            )  # fmt: skip
            skipped = f", {len(made.skipped)} skipped" if made.skipped else ""
            yield "least squares", f"{counted(len(made.layers), 'layer')} refitted{skipped}"
        if settings.recalibrate:
            assert data is not None
            self.advance("BatchNorm statistics", 0)
            yield "recalibrated", str(recalibrate(shrunk.model, data))
        if self.recipe.retraining is not None:
            yield "fine-tuned", self._fine_tuned(shrunk.model)

    def _fine_tuned(self, model: nn.Module) -> str:
        bench, settings = self.bench, self.recipe.retraining
        assert bench is not None
        assert settings is not None
        seed = derive(self.recipe.seed, "retraining", 1)
        fitted = fit(
            model,
            bench.loader(settings, seed),
            settings,
            seed=seed,
            validation=bench.validation(),
            fabric=self.fabric,
            on_batch=lambda progress: self.advance(f"fine-tuning, epoch {progress.epoch}", 1),
        )
        return f"{counted(len(fitted.history.epochs), 'epoch')}, weights of epoch {fitted.history.chosen}"

    def _timed(self, dense: nn.Module, small: nn.Module, inputs: Any) -> dict[int, tuple[Latency, Latency]]:
        """The two networks in turn; a batch size that a network does not take is left out."""
        timed = {}
        for size in BATCH_SIZES if self.recipe.repeats else ():
            self.advance(f"latency at batch {size}", 0)
            try:
                found = compare_latency(dense, small, of_size(inputs, size), repeats=self.recipe.repeats)
            except SparsewoodError:
                if size == 1:
                    raise
                continue
            timed[size] = (found.first, found.second)
        return timed


def of_size(inputs: Any, size: int) -> Any:
    """Inputs with so many examples: the first one again and again, along axis 0 of every tensor.

    >>> of_size((torch.ones(2, 3), torch.tensor(1.0)), 4)[0].shape
    torch.Size([4, 3])
    """

    def repeated(tensor: Tensor) -> Tensor:
        return tensor[:1].repeat(size, *[1] * (tensor.dim() - 1)) if tensor.dim() else tensor

    return map_tensors(repeated, inputs)


@contextmanager
def _silently() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
