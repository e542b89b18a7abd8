"""Carrying out a recipe for one seed: the dense network, then every variant, stage by stage.

A stage is one training. Finished stages are not done again; an unfinished one goes on from its newest checkpoint. All
that is random follows from the seed and the stage, so that a run that was cut gives the same numbers as one that was
not.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsewood.distributed import reduce_statistics, require_same_masks
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import to_model_device
from sparsewood.masks import apply_masks
from sparsewood.pruning.settings import Pruning
from sparsewood.recipes import find_collapse
from sparsewood.recovery import Follow
from sparsewood.run.bench import DENSE, MASKS, Bench, Trained
from sparsewood.run.directory import Stage
from sparsewood.run.during import pruner_of, squeezed
from sparsewood.run.lengths import dense_trainings
from sparsewood.run.recipe import Variant
from sparsewood.run.sharing_work import share
from sparsewood.run.trainings import Course, finish, finished, train
from sparsewood.run.unit_rounds import (
    choose_whole_units,
    notes_of,
    weights_removed,
    write_notes,
    write_unit_files,
)
from sparsewood.schedules import Event
from sparsewood.seeds import derive, generator_for
from sparsewood.state import TrainingState, capture
from sparsewood.statistics import collect
from sparsewood.train import DynamicPruner, Pruner
from sparsewood.train.rates import Stretched
from sparsewood.types import Count, Masks

logger = logging.getLogger(__name__)

__all__ = [
    "carry_out",
    "control_name",
    "first_step",
    "numbered",
    "prune_with",
    "round_name",
    "snapshots",
    "state_pruned",
    "train_controls",
    "train_dense",
]

IN_TRAINING = "training"


def train_dense(bench: Bench) -> Trained:
    """The dense network, and the states of its training that variants go back to."""
    stage = bench.stage(DENSE)
    trained = Trained.of(stage)
    if trained is not None:
        return trained
    model = bench.network()
    if bench.writes:
        capture(model, step=0).save(_snapshot(stage, 0))
    fitted = None
    if bench.recipe.train_dense:
        steps = dense_steps(bench)
        course = Course(bench.training, bench.seed, 0, steps, Follow("training"))
        wanted = [step for step in snapshots(bench) if step > 0]
        fitted = train(
            bench,
            stage,
            model,
            course,
            DENSE,
            dense=None,
            snapshots=wanted,
            on_snapshot=lambda state: state.save(_snapshot(stage, state.step)) if bench.writes else None,
        )
        missing = [step for step in wanted if not _snapshot(stage, step).is_file()]
        if missing:
            raise SparsewoodError(
                f"The dense training stopped after {fitted.steps} steps, for want of improvement, before steps "
                f"{missing} that a recovery goes back to. Go back to an earlier step, or leave patience out."
            )
    return finish(bench, stage, model, fitted, {})


def dense_steps(bench: Bench) -> int:
    """How many steps the dense training has; none if the recipe leaves it out."""
    return bench.training.epochs * len(bench.loader(bench.training)) if bench.recipe.train_dense else 0


def snapshots(bench: Bench) -> tuple[int, ...]:
    """The steps of the dense training that some variant goes back to; `SparsewoodError` if it ends before one."""
    wanted = {step for variant in bench.recipe.variants for step in variant.snapshots}
    total = dense_steps(bench)
    if bench.dry_run:  # its one step comes after any snapshot
        return tuple(sorted({min(step, max(total - 1, 0)) for step in wanted}))
    if any(step > total for step in wanted):
        raise SparsewoodError(
            f"A variant goes back to step {max(wanted)} of the dense training, which has {total} steps. "
            "Choose an earlier step, or train longer."
        )
    return tuple(sorted(wanted))


def carry_out(bench: Bench, variant: Variant, *, control: bool = True) -> dict[int, Stage]:
    """Every stage of one variant: its controls, and its rounds or its one training with pruning inside.

    Without `control` that is left to others. The stages of the pruned networks, by round.
    """
    dense = bench.finished(DENSE)
    if control:
        train_controls(bench, variant, dense)
    if variant.in_training:
        stages = {variant.pruning.rounds: _during_training(bench, variant, dense)}
    else:
        stages = _rounds(bench, variant, dense)
    if variant.pruning.coupled and variant.masks_from is None and bench.writes:
        write_unit_files(bench.stage(variant.name).directory, stages)
    if variant.sharing is not None:
        last = stages[max(stages)]
        pruned = Trained.of(last)
        assert pruned is not None
        share(bench, variant, pruned, Masks.load(last.directory / MASKS))
    return stages


def train_controls(bench: Bench, variant: Variant, dense: Trained) -> Trained:
    """The dense network as the pruned ones are compared with it: trained on as often and as long as they are."""
    base = dense
    for number in range(1, dense_trainings(variant) + 1):
        stage = bench.stage(variant.name, control_name(number))
        trained = finished(stage, base)
        if trained is None:
            model = bench.network_at(base.state())
            course = _course(bench, variant, variant.pruning.recovery.follow, number, model)
            fitted = train(bench, stage, model, course, f"{variant.name}, {stage.directory.name}", dense=dense)
            trained = finish(bench, stage, model, fitted, {"from": base.fingerprint})
        base = trained
    return base


def prune_with(bench: Bench, variant: Variant, masks: Masks) -> Stage:
    """The rounds of a variant with these masks in each, in place of its own choice; the stage of the last.

    Raises `SparsewoodError` if a round was begun with others.
    """
    for number, _ in numbered(variant.pruning):
        path = bench.stage(variant.name, round_name(number)).directory / MASKS
        if not path.is_file():
            if bench.writes:
                masks.save(path)
        elif Masks.load(path).fingerprint() != masks.fingerprint():
            raise SparsewoodError(
                f"'{path}' are other masks than those that are there now: what they are made of was done again. Remove "
                f"'{path.parent.parent}', so that it is done again, too."
            )
    stages = _rounds(bench, variant, bench.finished(DENSE))
    return stages[max(stages)]


def control_name(number: int) -> str:
    """How the directory of a training of the control is called."""
    return f"control-{number:02d}"


@dataclass(frozen=True)
class Round:
    """One event (or several for different layers) of one variant, and what it starts from."""

    variant: Variant
    number: int
    events: tuple[Event, ...]
    stage: Stage
    base: Trained
    earlier: Masks


def _rounds(bench: Bench, variant: Variant, dense: Trained) -> dict[int, Stage]:
    """After every event: choose, recover, train; the stages that this made, by round."""
    stages = {}
    alone = variant.independent or variant.masks_from is not None
    base, masks = dense, Masks({})
    for number, events in numbered(variant.pruning):
        if variant.only is not None and number not in variant.only:
            continue
        stage = bench.stage(variant.name, round_name(number))
        trained = finished(stage, base) or _retrain(bench, Round(variant, number, events, stage, base, masks), dense)
        stages[number] = stage
        if not alone:
            base, masks = trained, Masks.load(stage.directory / MASKS)
    return stages


def round_name(number: int) -> str:
    """How the directory of a round is called."""
    return f"round-{number:02d}"


def numbered(pruning: Pruning) -> list[tuple[int, tuple[Event, ...]]]:
    """Rounds that have events, counted from 1."""
    found: dict[int, tuple[Event, ...]] = {}
    for event in pruning.plan:
        found[event.step + 1] = (*found.get(event.step + 1, ()), event)
    return sorted(found.items())


def _masks(bench: Bench, current: Round, model: nn.Module) -> Masks:
    """The masks of one round, chosen once and kept in its stage."""
    path = current.stage.directory / MASKS
    if path.is_file():
        return Masks.load(path)
    if current.variant.masks_from is not None:
        source = bench.stage(current.variant.masks_from, round_name(current.number))
        masks = Masks.load(source.directory / MASKS)
        if current.variant.shuffled:
            masks = shuffled(masks, generator_for(bench.seed, "shuffle", current.number))
    else:
        masks, notes = _chosen(bench, current, model)
        if notes and bench.writes:
            write_notes(current.stage, notes)  # before the masks, with which the choice is done
    require_same_masks(masks)
    if bench.writes:
        _warn_of_collapse(bench, current.variant, current.stage, model, masks)
        masks.save(path)
    bench.together()
    return masks


def _warn_of_collapse(bench: Bench, variant: Variant, stage: Stage, model: nn.Module, masks: Masks) -> None:
    """Say if no signal gets through layers of the pruned network: training it would tell nothing of the method."""
    try:
        found = find_collapse(model, masks, to_model_device(torch.zeros(1, *bench.split.input_shape), model))
    except SparsewoodError as error:  # the run does not depend on it
        logger.info("Whether signals get through could not be found out: %s", error)
        return
    if found.blocked or not found.connected:
        logger.warning("%s, %s: %s.", variant.name, stage.directory.name, found)


def shuffled(masks: Masks, generator: torch.Generator) -> Masks:
    """As many kept entries in each mask, at random places.

    >>> import torch
    >>> masks = Masks({"w": torch.tensor([[True, True, True], [False, False, False]])})
    >>> int(shuffled(masks, torch.Generator().manual_seed(0))["w"].count_nonzero())
    3
    """
    return Masks.adopt(
        {
            name: mask.flatten()[torch.randperm(mask.numel(), generator=generator).to(mask.device)].view_as(mask)
            for name, mask in masks.items()
        }
    )


def _chosen(bench: Bench, current: Round, model: nn.Module) -> tuple[Masks, dict[str, Any]]:
    """The masks after the events of a round, and what is to be noted of units."""
    pruning = current.variant.pruning
    if pruning.coupled:
        return choose_whole_units(bench, pruning, current.number, current.events, model, current.earlier)
    masks = pruning.all_kept(model) & current.earlier
    if bench.dry_run:
        pruning = replace(pruning, iterations=min(pruning.iterations, 2))
    for index, event in enumerate(_events(bench, current, model)):
        statistics = data = None
        needs = pruning.needs
        if needs and pruning.iterations > 1:  # statistics are taken anew in each: every process sees all of the data
            data = bench.scoring(current.number, shared=False)
        elif needs:
            names = [entry.name for entry in pruning.parameters(model, event)]
            seen = islice(bench.scoring(current.number, shared=True), pruning.score_batches)
            found = collect(model, seen, needs, nn.functional.cross_entropy, names=names, masks=masks)
            statistics = reduce_statistics(found)
        generator = generator_for(bench.seed, "prune", current.number, index)
        loss = nn.functional.cross_entropy
        given: dict[str, Any] = {"statistics": statistics, "data": data, "loss": loss, "generator": generator}
        masks = pruning.choose(model, event, masks, **given)
        apply_masks(model, masks)
    return masks, {}


def _events(bench: Bench, current: Round, model: nn.Module) -> tuple[Event, ...]:
    """The events of a round; where it is matched to another variant, as many weights as that one's masks remove."""
    if current.variant.matched_to is None:
        return current.events
    there = Masks.load(bench.stage(current.variant.matched_to, round_name(current.number)).directory / MASKS)
    return tuple(replace(event, amount=Count(weights_removed(model, there))) for event in current.events)


def _retrain(bench: Bench, current: Round, dense: Trained) -> Trained:
    """Choose, recover, zero, train."""
    variant, number = current.variant, current.number
    model = bench.network_at(state_pruned(bench, variant, current.base))
    masks = _masks(bench, current, model)
    apply_masks(model, masks)
    course = _recovered(bench, variant, model, masks, dense, number)
    doing = f"{variant.name}, {current.stage.directory.name}"
    fitted = train(bench, current.stage, model, course, doing, dense=dense, masks=masks)
    notes = {
        "round": number,
        "amount": None if variant.source is not None else repr(current.events[-1].amount),
        "rewound_to": course.picked,
        "from": current.base.fingerprint,
    }
    return finish(bench, current.stage, model, fitted, notes, masks)


def state_pruned(bench: Bench, variant: Variant, base: Trained) -> TrainingState:
    """The weights that a variant prunes: those of `base`, or of the step of the dense training that it names."""
    return base.state() if variant.at_step is None else _load_snapshot(bench, variant.at_step)


def _during_training(bench: Bench, variant: Variant, dense: Trained) -> Stage:
    """One training in which all events, or updates of masks, take place; the stage that this made."""
    stage = bench.stage(variant.name, IN_TRAINING)
    if finished(stage, dense) is not None:
        return stage
    model = bench.network_at(dense.state())
    course = _recovered(bench, variant, model, Masks({}), dense, 1)
    variant, settings = squeezed(bench, variant, course.settings)
    if bench.dry_run:
        course = replace(course, settings=settings, steps=settings.epochs * len(bench.loader(settings)))
    pruning, steps = variant.pruning, course.steps - course.first

    def during(network: nn.Module, optimizer: Any, per_epoch: int) -> Pruner | DynamicPruner:
        return pruner_of(bench, variant, network, optimizer, steps=steps, per_epoch=per_epoch)

    fitted = train(bench, stage, model, course, variant.name, dense=dense, during=during)
    assert fitted.masks is not None
    require_same_masks(fitted.masks)
    if bench.writes:
        _warn_of_collapse(bench, variant, stage, model, fitted.masks)
        if pruning.coupled:
            write_notes(stage, notes_of(bench.structure(model), fitted.masks))
        fitted.masks.save(stage.directory / MASKS)
    notes = {
        "round": pruning.rounds,
        "amount": repr(variant.dynamics or pruning.plan[-1].amount),
        "rewound_to": course.picked,
        "from": dense.fingerprint,
    }
    finish(bench, stage, model, fitted, notes, fitted.masks)
    return stage


# ---------------------------------------------------------------- trainings


def _recovered(bench: Bench, variant: Variant, model: nn.Module, masks: Masks, dense: Trained, number: int) -> Course:
    """Set the weights that the recovery says; the training that follows."""
    recovery = variant.pruning.recovery
    picked = recovery.pick(lambda step: _masked_accuracy(bench, masks, step))
    start = dense.state() if picked is None else _load_snapshot(bench, picked)
    recovery(model, start.part("model"), generator_for(bench.seed, "recovery", number))
    apply_masks(model, masks)
    course = _course(bench, variant, recovery.follow_from(picked), number, model)
    restored = start if course.follow.restore_optimizer and start.step else None
    return replace(course, picked=picked, optimizer_state=restored)


def _course(bench: Bench, variant: Variant, follow: Follow, number: int, model: nn.Module) -> Course:
    again = follow.settings == "training"
    settings = bench.training if again else bench.retraining(variant)
    steps = settings.epochs * len(bench.loader(settings))
    if follow.same_flops and not bench.dry_run:
        macs = bench.macs(model)
        longer = macs.macs / macs.macs_nonzero
        steps, settings = math.ceil(steps * longer), replace(settings, rate=Stretched(settings.rate, longer))
    # Going back to the dense training brings its order of the data back, too.
    seed = bench.seed if again else derive(bench.seed, "retraining", number)
    return Course(settings, seed, first_step(bench, follow), steps, follow)


def _snapshot(stage: Stage, step: int) -> Path:
    return stage.directory / f"snapshot-{step}.safetensors"


def _load_snapshot(bench: Bench, step: int) -> TrainingState:
    if bench.dry_run:
        step = min(step, max(snapshots(bench), default=0))
    return TrainingState.load(_snapshot(bench.stage(DENSE), step))


def _masked_accuracy(bench: Bench, masks: Masks, step: int) -> float:
    model = bench.network_at(_load_snapshot(bench, step))
    apply_masks(model, masks)
    return bench.accuracy(model)


def first_step(bench: Bench, follow: Follow) -> int:
    """Where in its schedule a training begins."""
    return min(follow.step, max(snapshots(bench), default=0)) if bench.dry_run else follow.step
