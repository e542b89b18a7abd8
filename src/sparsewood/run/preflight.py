"""What can be found wrong before hours of training: sizes that do not fit, events too late, rounds that are missing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.data.part import Part
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import call, to_model_device
from sparsewood.pruning import Pruning
from sparsewood.quantization.limits import limits_of
from sparsewood.run.bench import Bench
from sparsewood.run.calls import told
from sparsewood.run.during import pruner_of, squeezed
from sparsewood.run.experiment import first_step, numbered, snapshots
from sparsewood.run.recipe import Variant
from sparsewood.run.sharing import Sharing
from sparsewood.run.unit_rounds import unit_data
from sparsewood.shrinking.unit_masks import choose_units
from sparsewood.snapshot import untouched
from sparsewood.statistics import collect
from sparsewood.types import Masks, Remaining

__all__ = ["check_model", "check_run"]

EXAMPLES = 8


def check_run(bench: Bench) -> None:
    """Raise `SparsewoodError` for a recipe that cannot be carried out to its end."""
    if bench.training.precision == "64-true":
        raise SparsewoodError("training.precision: a run keeps its weights in 32 bits. Use '32-true' or 'bf16-mixed'.")
    check_model(bench)
    snapshots(bench)
    for variant in bench.recipe.variants:
        try:
            _check_variant(bench, variant)
        except SparsewoodError as error:
            raise SparsewoodError(f"Variant {variant.name!r}: {error}") from error


def check_model(bench: Bench) -> None:
    """Raise `SparsewoodError` if the model does not take the images, or gives no logits for their classes."""
    model = bench.network()
    name, shape = bench.recipe.model.name, "x".join(map(str, bench.split.input_shape))
    try:
        with untouched(model), torch.no_grad():
            logits = call(model, to_model_device(torch.zeros(1, *bench.split.input_shape), model))
    except SparsewoodError as error:
        raise SparsewoodError(
            f"model: {name} does not take the images of {bench.split.name}, which are {shape} (channels x height x "
            f"width). If it is made for others, set its size, such as model: {{name: {name}, "
            f"channels: {bench.split.input_shape[0]}}}; `sparsewood list models` shows its parameters. "
            f"It says: {told(error.__cause__ or error)}"
        ) from error
    if not isinstance(logits, Tensor):
        raise SparsewoodError(
            f"model: {name} gives a {type(logits).__name__} for one image of {bench.split.name}; expected a tensor of "
            f"logits (1, {bench.split.classes}). Return the logits alone."
        )
    if logits.ndim != 2 or logits.shape[1] < bench.split.classes:
        raise SparsewoodError(
            f"model: {name} gives shape {tuple(logits.shape)} for one image of {bench.split.name}; expected logits "
            f"(1, {bench.split.classes}). Set its number of classes, as in model: {{name: {name}, "
            f"classes: {bench.split.classes}}}."
        )


def _check_variant(bench: Bench, variant: Variant) -> None:
    pruning, follow = variant.pruning, variant.pruning.recovery.follow
    alone = variant.independent or variant.masks_from is not None
    settings = bench.training if follow.settings == "training" else bench.retraining(variant)
    if settings.precision != bench.training.precision:
        raise SparsewoodError(
            f"its training has precision {settings.precision!r}, and the dense one {bench.training.precision!r}. A run "
            "has one."
        )
    steps = settings.epochs * len(bench.loader(settings))
    if first_step(bench, follow) > steps:
        raise SparsewoodError(
            f"{pruning.recovery} begins at step {follow.step} of a training that has {steps} steps. Choose an earlier "
            "step, or train longer."
        )
    if len(pruning.recovery.snapshots) > 1 and not len(bench.split.validation):
        raise SparsewoodError(f"{pruning.recovery} chooses by validation data, and {bench.split.name} has none.")
    if variant.sharing is not None:
        _check_sharing(bench, variant.sharing)
    _check_choice(bench, variant)
    _check_rounds(variant, alone=alone)
    if variant.in_training:
        _check_during_training(bench, variant, alone=alone)
    else:
        _check_by_round(variant, alone=alone)
    if variant.source is not None:
        source = bench.recipe.variant(variant.source)
        there = set(_rounds(source) if source.only is None else source.only)
        missing = sorted(set(variant.only or _rounds(variant)) - there)
        if missing or source.in_training:
            numbers = missing or _rounds(variant)
            key = "masks_from" if variant.masks_from is not None else "matched_to"
            raise SparsewoodError(f"{key}: {variant.source!r} has no masks of rounds {numbers}.")


def _check_sharing(bench: Bench, sharing: Sharing) -> None:
    limits_of(bench.network(), sharing.clusters, sharing.bits, None, None)
    tuning = sharing.tuning
    if tuning is not None and tuning.precision != bench.training.precision:
        raise SparsewoodError(
            f"the tuning of shared values has precision {tuning.precision!r}, and the dense training "
            f"{bench.training.precision!r}. A run has one."
        )


def _check_choice(bench: Bench, variant: Variant) -> None:
    """Choose once, on the network before training and a few examples: what cannot be scored is found out now."""
    if variant.masks_from is not None or variant.dynamics is not None:
        return
    pruning, model, statistics = variant.pruning, bench.network(), None
    once = replace(pruning, iterations=1, revive=False)
    if pruning.coupled:
        _check_units(bench, pruning, model)
        return
    if pruning.needs:
        images, labels = next(iter(bench.scoring(0, shared=False)))
        batch = (images[:EXAMPLES], labels[:EXAMPLES])
        loss = nn.functional.cross_entropy
        names = sorted({entry.name for event in pruning.plan for entry in pruning.parameters(model, event)})
        statistics = collect(model, [batch], pruning.needs, loss, names=names)
    with _quiet():
        for event in (pruning.plan[0], pruning.plan[-1]):
            once.choose(model, event, Masks({}), statistics=statistics)


def _check_units(bench: Bench, pruning: Pruning, model: nn.Module) -> None:
    """The same for whole units; a criterion of units sees a few examples."""
    structure, data = bench.structure(model), unit_data(bench, pruning, 0)
    seen: Any = None
    if isinstance(data, Part):
        seen = data.subset(torch.arange(min(EXAMPLES, len(data))))
    elif data is not None:
        images, labels = next(iter(data))
        seen = [(images[:EXAMPLES], labels[:EXAMPLES])]
    with _quiet():
        for event in (pruning.plan[0], pruning.plan[-1]):
            choose_units(pruning, model, structure, event, {}, data=seen, loss=nn.functional.cross_entropy)


@contextmanager
def _quiet() -> Iterator[None]:
    """What would be said of untrained weights is of no interest."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _check_rounds(variant: Variant, *, alone: bool) -> None:
    if variant.only is None:
        return
    if not alone:
        raise SparsewoodError(
            "'only' leaves out rounds that later ones build on. Use it with independent: true or masks_from."
        )
    without = sorted(set(variant.only) - set(_rounds(variant)))
    if without:
        raise SparsewoodError(f"'only' names rounds {without}, which have no event.")


def _check_by_round(variant: Variant, *, alone: bool) -> None:
    pruning = variant.pruning
    if (pruning.start, pruning.every) != (0, 1):
        raise SparsewoodError(
            f"start: {pruning.start} and every: {pruning.every} mean nothing by rounds. For events inside one training "
            "say unit: epoch or unit: step."
        )
    if any(event.regrow for event in pruning.plan):
        raise SparsewoodError(
            f"{pruning.schedule} lets weights grow again while the network trains. Say unit: epoch or unit: step."
        )
    if alone and any(isinstance(event.amount, Remaining) for event in pruning.plan) and variant.masks_from is None:
        raise SparsewoodError(
            f"{pruning.schedule} takes a share of what is left, and with independent: true every round starts from the "
            "dense network, so that all would be alike. Use Levels, Exponential or another schedule of totals."
        )


def _check_during_training(bench: Bench, variant: Variant, *, alone: bool) -> None:
    if alone:
        raise SparsewoodError("independent and masks_from are for rounds; with unit epoch or step leave them out.")
    if variant.pruning.recovery.follow.same_flops:
        raise SparsewoodError(
            f"{variant.pruning.recovery} lengthens the training by what the pruned network saves, which is not known "
            "when pruning goes on during it. Use unit: round."
        )
    _check_events(bench, variant)


def _check_events(bench: Bench, variant: Variant) -> None:
    recovery = variant.pruning.recovery
    settings = bench.training if recovery.follow.settings == "training" else bench.retraining(variant)
    variant, settings = squeezed(bench, variant, settings)
    pruning = variant.pruning
    per_epoch = len(bench.loader(settings))
    # Of several snapshots the last leaves the fewest steps.
    first = first_step(bench, recovery.follow_from(max(recovery.snapshots, default=None)))
    steps = settings.epochs * per_epoch - first
    if variant.dynamics is not None:
        _try_dynamics(bench, variant, steps, per_epoch)
        return
    if pruning.unit == "epoch" and first % per_epoch:
        raise SparsewoodError(
            f"its training begins at step {first}, in the middle of an epoch of {per_epoch} steps. With unit: epoch go "
            "back to the beginning of one, or use unit: step."
        )
    last = max(pruning.events(per_epoch))
    if last >= steps:
        raise SparsewoodError(
            f"its last event is before step {last}, and its training has {steps} steps ({per_epoch} in an epoch). "
            "Train longer, or prune earlier."
        )


def _try_dynamics(bench: Bench, variant: Variant, steps: int, per_epoch: int) -> None:
    """Begin once, on the network before training: parameters and times that cannot be are found out now."""
    model = bench.network()
    if 0 not in variant.pruning.recovery.snapshots:
        _stir(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner_of(bench, variant, model, optimizer, steps=steps, per_epoch=per_epoch).close()


def _stir(model: nn.Module) -> None:
    """In place of the weights that the training will go on from, which are alike nowhere, as first ones may be."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator).to(parameter))


def _rounds(variant: Variant) -> list[int]:
    return [number for number, _ in numbered(variant.pruning)]
