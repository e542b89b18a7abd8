"""What can be found wrong before hours of training: sizes that do not fit, events too late, rounds that are missing."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import call
from sparsewood.run.bench import Bench
from sparsewood.run.experiment import first_step, numbered, snapshots
from sparsewood.run.recipe import Variant
from sparsewood.snapshot import untouched

__all__ = ["check_run"]


def check_run(bench: Bench) -> None:
    """Raise `SparsewoodError` for a recipe that cannot be carried out to its end."""
    _check_model(bench)
    snapshots(bench)
    for variant in bench.recipe.variants:
        try:
            _check_variant(bench, variant)
        except SparsewoodError as error:
            raise SparsewoodError(f"Variant {variant.name!r}: {error}") from error


def _check_model(bench: Bench) -> None:
    model = bench.network()
    with untouched(model), torch.no_grad():
        logits = call(model, bench.example())
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < bench.split.classes:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise SparsewoodError(
            f"model: {bench.recipe.model.name} gives {got} for one image of {bench.split.name}; expected logits "
            f"(1, {bench.split.classes}). Set its number of classes, as in model: {{name: {bench.recipe.model.name}, "
            f"classes: {bench.split.classes}}}."
        )


def _check_variant(bench: Bench, variant: Variant) -> None:
    alone = variant.independent or variant.masks_from is not None
    numbers = _rounds(variant)
    if variant.only is not None and not alone:
        raise SparsewoodError(
            "'only' leaves out rounds that later ones build on. Use it with independent: true or masks_from."
        )
    if variant.only is not None and not set(variant.only) <= set(numbers):
        raise SparsewoodError(f"'only' names rounds {sorted(set(variant.only) - set(numbers))}, which have no event.")
    if variant.pruning.unit != "round":
        if alone:
            raise SparsewoodError("independent and masks_from are for rounds; with unit epoch or step leave them out.")
        _check_events(bench, variant)
    if variant.masks_from is not None:
        source = bench.recipe.variant(variant.masks_from)
        there = set(_rounds(source) if source.only is None else source.only)
        missing = sorted(set(variant.only or numbers) - there)
        if missing or source.pruning.unit != "round":
            raise SparsewoodError(f"masks_from: {variant.masks_from!r} has no masks of rounds {missing or numbers}.")


def _check_events(bench: Bench, variant: Variant) -> None:
    follow = variant.pruning.recovery.follow
    settings = bench.training if follow.settings == "training" else bench.retraining(variant)
    pruning, settings = bench.squeezed(variant.pruning, settings)
    per_epoch = len(bench.loader(settings))
    steps = settings.epochs * per_epoch - first_step(bench, follow)
    last = max(pruning.events(per_epoch))
    if last >= steps:
        raise SparsewoodError(
            f"its last event is before step {last}, and its training has {steps} steps ({per_epoch} in an epoch). "
            "Train longer, or prune earlier."
        )


def _rounds(variant: Variant) -> list[int]:
    return [number for number, _ in numbered(variant.pruning)]
