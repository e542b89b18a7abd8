"""Sensitivity analysis: prune one layer at a time and see what the network loses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import nn

from sparsewood.batches import require_batches
from sparsewood.criteria import Criterion, Magnitude
from sparsewood.errors import SparsewoodError, require_model
from sparsewood.granularity import Channel, Element, Filter, Granularity
from sparsewood.inputs import Inputs
from sparsewood.masks.apply import clear, local, resolve, shard
from sparsewood.measurement import Evaluation, evaluate
from sparsewood.parameters import Selectors
from sparsewood.recipes.sensitivity_cuts import How, cuts_of, labelled
from sparsewood.recipes.sensitivity_rows import Rows
from sparsewood.report.sensitivity import Sensitivity
from sparsewood.snapshot import untouched
from sparsewood.statistics import Loss
from sparsewood.types import Masks, Sparsity
from sparsewood.unit_criteria.base import UnitCriterion

__all__ = ["AMOUNTS", "GRANULARITIES", "sensitivity"]

AMOUNTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
GRANULARITIES: tuple[Granularity, ...] = (Element(), Filter(), Channel())

Evaluate = Callable[[nn.Module], Evaluation]


def sensitivity(
    model: nn.Module,
    data: Iterable[Any] | Evaluate,
    *,
    loss: Loss | None = None,
    amounts: Sequence[float] = AMOUNTS,
    granularities: Sequence[Granularity] = GRANULARITIES,
    criterion: Criterion | UnitCriterion = Magnitude(),
    layers: Selectors | None = None,
    scoring: Any = None,
    example_inputs: Inputs = None,
    path: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> Sensitivity:
    """For each layer, granularity and amount: prune that layer alone, and evaluate. The model is left as it was.

        row(l, g, a) = evaluation of the network in which round(a n) of the n units of layer l, shaped as g, are zero

    Args:
        data: batches of (inputs, targets) to evaluate on, which are read again and again; or a function of the model
            that returns an `Evaluation` and leaves the weights as they are.
        loss: see `evaluate`; cross-entropy if nothing else is said.
        amounts: shares of a layer's units, in [0, 1]. Below 1 one unit stays, whatever the rounding; a layer of one
            unit has no rows.
        granularities: what is removed as one. `Coupled()` removes units of the network's structure everywhere, with
            all that belongs to them; it needs `example_inputs`, and has rows for weights that make units.
        criterion: which units go, those with the lowest scores first. One of units is for `Coupled()` alone.
        layers: parameter names, module names, patterns or module classes; by default all weights. Outputs of the
            classifier are classes, so that whole outputs go from it only if it is named here.
        scoring: what a criterion reads that needs data (not what is evaluated on), with `loss`.
        path: a CSV file to which every row is added as soon as it is there. A second call with this file does only
            what is missing; it may ask for more layers, amounts and granularities.
        seed: for random criteria; the units that go do not depend on the order of the work.
        progress: called with what is being done, before each evaluation.

    Rows have the measures top1, top5 and loss; the rows of amount 0 are the whole network, which is evaluated once.
    Masks that were seen before are not evaluated again.

    Raises `SparsewoodError` for what does not fit, and for a file that holds rows of another network, of other
    settings, or of other data.

    Source: Li et al. 2016, "Pruning Filters for Efficient ConvNets", section 3.2, https://arxiv.org/abs/1608.08710;
    Distiller, https://intellabs.github.io/distiller/pruning.html#sensitivity-analysis.

    >>> import torch
    >>> layer = nn.Linear(3, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 0.0, 0.1], [0.0, 2.0, 0.0]]))
    >>> batches = [(torch.eye(3)[:2], torch.tensor([0, 1]))]
    >>> print(sensitivity(layer, batches, amounts=(0.5, 0.8), granularities=[Element()]))
    top1 [%] with one layer pruned; whole network 100.00
    layer     units     0.5    0.8
    ------  -------  ------  -----
    weight  Element  100.00  75.00
    """
    require_model(model)
    run = _evaluator(data, loss)
    wanted = _amounts(amounts)
    how = How(model, criterion, scoring, loss or F.cross_entropy, seed)
    cuts = cuts_of(how, labelled(granularities), layers, example_inputs)
    told = progress or (lambda _: None)
    rows = Rows(path, how.fingerprint)
    told("whole network")
    baseline = rows.baseline(_whole(model, run, how))
    known: dict[str, Evaluation] = {}
    total, done = len(cuts) * len(wanted), 0
    for cut in cuts:
        rows.note(cut.parameter, cut.label, (0.0, 0.0), baseline)
        for amount in wanted:
            done += 1
            if rows.holds(cut.parameter, cut.label, amount):
                continue
            told(f"{done} of {total}: {cut.parameter}, {cut.label}, {amount:g}")
            masks, achieved = cut.masks(amount)
            key = masks.fingerprint()
            if key not in known:
                known[key] = _pruned(model, masks, run) if masks.removed else baseline
            rows.note(cut.parameter, cut.label, (amount, achieved), known[key])
    asked = [(cut.parameter, cut.label, amount) for cut in cuts for amount in (0.0, *wanted)]
    return Sensitivity(rows.ordered(asked))


# ---------------------------------------------------------------- evaluating


def _evaluator(data: Iterable[Any] | Evaluate, loss: Loss | None) -> Evaluate:
    if isinstance(data, nn.Module | type):
        raise SparsewoodError(f"data must be batches, or a function of the model. Got {data!r:.80}.")
    if callable(data) and not isinstance(data, Iterable):
        return lambda model: _evaluated(data, model)
    require_batches(data)
    if isinstance(data, Iterator):
        raise SparsewoodError(
            f"data are read for every row, and a {type(data).__name__} can be read only once. Pass a list or a loader."
        )
    return lambda model: evaluate(model, data, loss=loss)


def _evaluated(function: Evaluate, model: nn.Module) -> Evaluation:
    with untouched(model):
        found = function(model)
    if not isinstance(found, Evaluation):
        raise SparsewoodError(
            f"The function given as data must return an Evaluation, as sparsewood.evaluate does. Got {found!r:.80}."
        )
    return found


def _whole(model: nn.Module, run: Evaluate, how: How) -> Evaluation:
    """The network as it is. A function that trains it is found out here."""
    found = run(model)
    if how.digest() != how.fingerprint:
        raise SparsewoodError(
            f"Evaluating {type(model).__name__} changed its weights or buffers, so that no row could be compared with "
            "another. Train a copy in the function given as data, or nothing."
        )
    return found


def _pruned(model: nn.Module, masks: Masks, run: Evaluate) -> Evaluation:
    with _masked(model, masks):
        return run(model)


@contextmanager
def _masked(model: nn.Module, masks: Masks) -> Iterator[None]:
    """Inside the block masked entries are zero. The weights themselves are not written to, but lent a place to copies:
    so nothing can be left half-restored, and graphs that hold them stay valid.
    """
    resolved = resolve(model, masks)
    whole = [(parameter, parameter.data) for _, parameter, _ in resolved]
    try:
        for _, parameter, mask in resolved:
            values = parameter.data.clone()
            clear(local(values), shard(mask, parameter))
            parameter.data = values
        yield
    finally:
        for parameter, values in whole:
            parameter.data = values


# ---------------------------------------------------------------- what is asked


def _amounts(amounts: Sequence[float]) -> list[float]:
    found = [Sparsity(amount).fraction for amount in amounts]
    if not found or len(set(found)) != len(found):
        raise SparsewoodError(f"amounts must be at least one, each once. Got {found}.")
    return [float(amount) for amount in sorted(found) if amount > 0]
