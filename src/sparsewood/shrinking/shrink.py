"""`shrink` and `preview`: choose units, cut them out of a copy, and prove that nothing else changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.allocation.scopes import Amounts, Everywhere, Scope
from sparsewood.batches import split_batch
from sparsewood.criteria import Criterion, Magnitude
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import to_model_device
from sparsewood.masks import apply_masks
from sparsewood.shrinking.budgets import Bytes, CountBudget, Latency, Params, meet
from sparsewood.shrinking.build import Built, build, merged, refused
from sparsewood.shrinking.choice import DEFAULT_AMOUNT, Choice, Chooser, UnitScores
from sparsewood.shrinking.copies import duplicate
from sparsewood.shrinking.costs import Costs, element_sizes
from sparsewood.shrinking.cut import named_tensors
from sparsewood.shrinking.files import attach, attached, compose, fingerprint
from sparsewood.shrinking.filled import Filled, fill_constants, fill_means
from sparsewood.shrinking.folding import joined
from sparsewood.shrinking.latency import Rounds
from sparsewood.shrinking.optimizers import Added, Carried, carry
from sparsewood.shrinking.plan import Keep, ShrinkPlan
from sparsewood.shrinking.proof import DoesNotRun
from sparsewood.shrinking.proving import Differs, Proof, Prover, counted
from sparsewood.shrinking.report import Budgeted, ShrinkReport, Size
from sparsewood.shrinking.request import Progress, Request, check, is_default
from sparsewood.shrinking.silenced import Silenced
from sparsewood.shrinking.sizes import Sizes
from sparsewood.structure import Structure, trace
from sparsewood.types import AmountLike
from sparsewood.unit_criteria import reads_images
from sparsewood.units.images import Views

__all__ = ["Shrunk", "preview", "shrink"]

log = logging.getLogger(__name__)

_TRIALS = 16
"""How often units may be held because the network does not run without them."""


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A smaller network, the plan that makes it from the large one, and what the removal did."""

    model: nn.Module
    plan: ShrinkPlan
    report: ShrinkReport

    def __repr__(self) -> str:
        before, after = self.report.before, self.report.after
        return (
            f"Shrunk({type(self.model).__name__}, {self.report.removed} units removed, "
            f"{before.params:,} -> {after.params:,} parameters)"
        )


def shrink(
    model: nn.Module,
    example_inputs: Any,
    sparsity: AmountLike | Amounts = DEFAULT_AMOUNT,
    *,
    criterion: Criterion | UnitScores = Magnitude(),
    scope: Scope | Amounts = Everywhere(),
    budget: CountBudget | Latency | None = None,
    data: Iterable[Any] | None = None,
    loss: Any = None,
    protect: Any = (),
    round_to: int = 1,
    min_units: int = 1,
    bias_propagation: bool = False,
    optimizer: torch.optim.Optimizer | None = None,
    verify: bool = True,
    generator: torch.Generator | None = None,
    masks: Mapping[str, Tensor] | None = None,
    structure: Structure | None = None,
    attention: Literal["heads", "head_dims"] = "heads",
    inexact: bool = True,
    reduction: Any = None,
    normalize: bool | None = None,
    progress: Progress | None = None,
) -> Shrunk:
    """Remove units for good: a copy of the model with smaller layers, proven to compute what the masked one does.

    A unit goes from everything that holds it: its filter, its entries in normalisations and biases, the inputs of
    whatever reads it. That is the same as setting all of these to 0, and it is checked: both networks are run in
    float64 on the example inputs and on random ones. Units whose value does not depend on the input any more (their
    filters are 0, but a BatchNorm's shift is left) are replaced by that value, which moves into their readers' biases.

    Args:
        model: is not changed.
        example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
        sparsity: how many units go: a share of those that can, a count, or another amount (see `prune`); a mapping from
            layers to amounts shrinks these only.
        criterion: scores of weights, which are combined for each unit, or of units.
        scope: which units compete: all, those of a layer, those of layers of equal shape (`Isomorphic()`), ...
        budget: instead of `sparsity`, what may be left: `Params`, `MACs`, `Bytes` or `Latency`.
        data, loss: batches for criteria that need them and for `bias_propagation`, and the loss.
        protect: names, patterns, module classes or modules: units made there stay.
        round_to: the number of channels that stay in a layer is a multiple of this.
        min_units: how many units of each group stay at least.
        bias_propagation: readers' biases take over the mean that the removed units had over `data` (or over the example
            inputs): mean replacement.
        optimizer: one of the model's; it goes on with the small network's parameters, its state cut alike.
        verify: compare; without it nothing is proven, and the report says so.
        masks: remove what these masks have silenced instead of choosing by score: units whose filters are all 0. The
            function stays that of the masked network, so silenced units stay as they are where `protect`, `round_to`,
            `min_units` or `inexact` ask for it, and where no bias can take over the constant that they are (which the
            proof finds, so not without `verify`), whether `bias_propagation` is asked for or not.
        structure: from `trace`, if it is at hand; else the model is traced, with `attention`.
        inexact: whether units may go that a normalisation counts (LayerNorm), for which removing is not masking.
        reduction, normalize: how scores of weights become those of units; see `choice.Chooser`.
        progress: is called with the name of each stage.

    Returns the small network, a copy in the same mode; the plan that makes it from the large one; and a report.
    Raises `SparsewoodError` if a budget cannot be reached, if nothing can be removed, and if the networks differ by
    more than rounding where they should not; then nothing has been changed, not even the optimizer.

    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> shrunk = shrink(net, torch.ones(2, 3, 8, 8), 0.5)
    >>> shrunk.model[0], shrunk.report.exact, len(shrunk.plan.kept["0.weight"][0])
    (Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1)), True, 4)
    """
    request = Request(
        sparsity, criterion, scope, budget, data, loss, protect, round_to, min_units, generator, masks, structure,
        attention, inexact, reduction, normalize, progress,
    )  # fmt: skip
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise SparsewoodError(f"'optimizer' must be a torch.optim.Optimizer. Got {type(optimizer).__name__}.")
    return _Shrinking(model, example_inputs, request).run(
        bias_propagation=bias_propagation, optimizer=optimizer, verify=verify
    )


def preview(
    model: nn.Module,
    example_inputs: Any,
    sparsity: AmountLike | Amounts = DEFAULT_AMOUNT,
    *,
    criterion: Criterion | UnitScores = Magnitude(),
    scope: Scope | Amounts = Everywhere(),
    budget: CountBudget | Latency | None = None,
    data: Iterable[Any] | None = None,
    loss: Any = None,
    protect: Any = (),
    round_to: int = 1,
    min_units: int = 1,
    generator: torch.Generator | None = None,
    masks: Mapping[str, Tensor] | None = None,
    structure: Structure | None = None,
    attention: Literal["heads", "head_dims"] = "heads",
    inexact: bool = True,
    reduction: Any = None,
    normalize: bool | None = None,
    progress: Progress | None = None,
) -> ShrinkReport:
    """What `shrink` would remove, and why the rest stays: its report, without building or running anything smaller.

    Constants that have to stay when masks are given are found only by `shrink`, which can keep more.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> report = preview(net, torch.ones(1, 4), 0.5)
    >>> report.units, report.before.params, report.after.params
    ({'0': (4, 8)}, 58, 30)
    """
    request = Request(
        sparsity, criterion, scope, budget, data, loss, protect, round_to, min_units, generator, masks, structure,
        attention, inexact, reduction, normalize, progress,
    )  # fmt: skip
    shrinking = _Shrinking(model, example_inputs, request)
    choice, held = shrinking.fitting({})
    return shrinking.report(choice, held)


class _Shrinking:
    """One network on its way to a smaller one."""

    def __init__(self, model: nn.Module, example_inputs: Any, request: Request) -> None:
        check(model, request)
        if isinstance(request.data, Iterator):  # it can be read once, and is needed more often
            request = replace(request, data=list(request.data))
        self.given, self.model, self.request = model, model, request
        self.seconds: dict[str, float] = {}
        self.inputs = to_model_device(example_inputs, model)
        self.generator = request.generator or torch.Generator().manual_seed(0)
        with self._stage("trace"):
            self.structure = request.structure or trace(model, self.inputs, attention=request.attention)
        self.costs = Costs(self.structure, element_sizes(model))
        if request.masks is not None:
            self.model = duplicate(model, double=False)
            apply_masks(self.model, request.masks)
        with self._stage("scores"):
            self.silenced = None if request.masks is None else self._silenced()
            self.chooser = None if self.silenced is not None else self._chooser()
        self.rounds: Rounds | None = None
        self.timed: tuple[float, float] | None = None
        if self.chooser is not None and isinstance(request.budget, Latency):
            self.rounds = Rounds(
                self.chooser, self.model, self.inputs, self.structure, request.budget, progress=request.progress
            )

    def _chooser(self) -> Chooser:
        w = self.request
        # The default amount leaves it to a scope with amounts of its own.
        amount = None if is_default(w.sparsity) else w.sparsity
        return Chooser(
            self.model, self.structure, criterion=w.criterion, scope=w.scope, amount=amount, data=w.data,
            loss=w.loss, example_inputs=self.inputs, protect=w.protect, round_to=w.round_to, min_units=w.min_units,
            reduction=w.reduction, normalize=w.normalize, inexact=w.inexact, generator=self.generator,
        )  # fmt: skip

    def _silenced(self) -> Silenced:
        w = self.request
        return Silenced(
            self.given, self.model, self.structure, protect=w.protect, round_to=w.round_to, min_units=w.min_units,
            inexact=w.inexact,
        )  # fmt: skip

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Take the time of a part, and tell that it began."""
        log.debug("shrink: %s", name)
        if self.request.progress is not None:
            self.request.progress(name)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    # ------------------------------------------------------------ which units

    def fitting(self, held: Mapping[str, str]) -> tuple[Choice, dict[str, str]]:
        """The units that stay, so that all sizes the forward uses can follow; and the groups held for that."""
        held = dict(held)
        while True:
            with self._stage("choice"):
                choice = self._choose(held)
            new = self._unfit(choice.keep, held)
            if not new:
                return choice, held
            held.update(new)

    def _unfit(self, keep: Keep, held: Mapping[str, str]) -> dict[str, str]:
        """The groups, not held yet, of which a size could not follow if that stays, and why."""
        found = Sizes(self.structure, keep).failures() | refused(self.model, self.structure, keep)
        return {name: why for name, why in found.items() if name not in held}

    def _choose(self, held: Mapping[str, str]) -> Choice:
        if self.silenced is not None:
            return self.silenced.choose(held)
        assert self.chooser is not None
        if self.rounds is not None:
            return self.rounds.choose(held)
        if self.request.budget is not None:
            assert not isinstance(self.request.budget, Latency)
            return meet(self.chooser, self.costs, self.request.budget, held)
        return self.chooser.choose(held)

    # ------------------------------------------------------------ the small network

    def run(self, *, bias_propagation: bool, optimizer: torch.optim.Optimizer | None, verify: bool) -> Shrunk:
        """Choose, build, prove; what does not run without its units is held, and chosen again."""
        # From here on the large network is only read.
        with torch.inference_mode(False), ThreadPoolExecutor(1) as beside:
            source = beside.submit(fingerprint, self.given)
            return self._run(source, bias_propagation=bias_propagation, optimizer=optimizer, verify=verify)

    def _run(
        self, source: Future[str], *, bias_propagation: bool, optimizer: torch.optim.Optimizer | None, verify: bool
    ) -> Shrunk:
        held: dict[str, str] = {}
        fixed: dict[str, np.ndarray] = {}
        prover = Prover(self.model, self.structure, self.inputs, self.generator)
        for _ in range(_TRIALS):
            choice, held = self.fitting(held)
            if not choice.removed and (choice.asked or self.silenced is not None):
                raise SparsewoodError(self._nothing(choice, held))
            with self._stage("build"):
                filled = self._filled(choice.keep, held, fixed, bias_propagation=bias_propagation)
                if self.silenced is not None and (new := self._unfit(filled.keep, held)):
                    held.update(new)  # more stays than was chosen
                    continue
                choice = _with(choice, filled)
                if not choice.removed and self.silenced is not None:
                    raise SparsewoodError(self._nothing(choice, held))
                built = build(filled.model, self.structure, choice.keep, filled.done.added)
            try:
                with self._stage("proof"):
                    proof = prover.prove(filled, built) if verify else prover.assume(filled, built)
            except Differs:
                audible = prover.audible(filled)
                if not audible:
                    raise
                fixed = joined([fixed, audible])
                continue
            except DoesNotRun as error:
                new = self._groups_in(error.modules, choice.keep)
                if not new or new.keys() <= held.keys():
                    raise
                held.update(
                    {name: f"{where} does not run without its units: {error.cause}" for name, where in new.items()}
                )
                continue
            if self._is_slow(built, choice.keep):
                continue
            return self._finished(_Result(choice, held, filled, built, proof), optimizer, source.result())
        raise SparsewoodError(
            f"In {_TRIALS} trials no choice of units was found with which {type(self.given).__name__} runs and "
            f"computes the same; last held: {', '.join([*held, *fixed][-3:])}. Protect these layers, or report the "
            "network."
        )

    def _is_slow(self, built: Built, keep: Keep) -> bool:
        """Whether a latency budget asks for another round, now that the network can be timed."""
        if self.rounds is None:
            return False
        with self._stage("latency"):
            measured, predicted, again = self.rounds.measure(built.model, keep)
        self.timed = measured, predicted
        if not again and measured > 1.05 * self.rounds.allowed:
            log.warning(
                "%s: %.3g ms are allowed, %.3g ms measured on this machine after %d rounds.",
                self.request.budget, 1000 * self.rounds.allowed, 1000 * measured, self.rounds.round,
            )  # fmt: skip
        return again

    def _budgeted(self, choice: Choice, after: Size) -> Budgeted | None:
        budget = self.request.budget
        if budget is None:
            return None
        if self.rounds is not None:
            measured, predicted = self.timed or (None, self.rounds.times.predict(choice.keep))
            return Budgeted(budget, self.rounds.allowed, measured, predicted)
        reached = {Params: after.params, Bytes: after.bytes}.get(type(budget), choice.reached)
        if reached is not None and choice.allowed is not None and reached > choice.allowed:
            log.warning(
                "%s: %d are allowed, %d are left with the biases that were made.", budget, choice.allowed, reached
            )
        return Budgeted(budget, choice.allowed, reached)

    def _finished(self, result: _Result, optimizer: torch.optim.Optimizer | None, source: str) -> Shrunk:
        small, proof = result.built.model, result.proof
        edits = merged([*result.built.plan.edits, *proof.scales.edits])
        scalings = tuple(proof.scales.scalings)
        steps = (self._step(result.choice),)
        plan = replace(result.built.plan, edits=edits, scalings=scalings, source=source, steps=steps)
        before = attached(self.given)
        whole = plan if before is None else compose(before, plan)
        attach(small, whole)
        report = self.report(result.choice, result.held, result.filled, proof, small)
        if optimizer is not None:  # last, since nothing may fail once it has changed
            with self._stage("optimizer"):
                scaled = [(small.get_parameter(one.param), one) for one in scalings]
                carry(optimizer, _carried(self.given, small, plan), _added(small, plan.added), scaled)
        return Shrunk(small, whole, report)

    def _step(self, choice: Choice) -> dict[str, Any]:
        """What was asked for and what stayed, for those who read a plan."""
        w = self.request
        if w.masks is not None:
            asked = {"criterion": "masks"}
        else:
            amount = w.sparsity if w.budget is None else w.budget
            asked = {"criterion": repr(w.criterion), "scope": repr(w.scope), "amount": repr(amount)}
        return {**asked, "units": {name: [int(stays.sum()), len(stays)] for name, stays in choice.keep.items()}}

    def _nothing(self, choice: Choice, held: Mapping[str, str]) -> str:
        name = type(self.given).__name__
        if self.silenced is not None and not self.silenced.count:
            return (
                f"No unit of {name} goes: in none are all filters 0 that share it. Masks of whole filters come from "
                "prune(..., granularity=Filter()); without masks shrink chooses units by itself."
            )
        reasons = list(dict.fromkeys([*choice.held.values(), *held.values()]))[:3]
        if self.request.round_to > 1:
            reasons.insert(0, f"multiples of round_to={self.request.round_to} leave no choice")
        why = "; ".join(reasons) or "each group keeps at least one"
        return f"No unit of {name} goes ({why}). print(sparsewood.trace(model, inputs)) shows what can."

    def _groups_in(self, modules: Sequence[str], keep: Keep) -> dict[str, str]:
        """The groups that lose units in the first of these modules that holds any, with the name of that module."""
        for module in modules:
            found = {
                name: module
                for name, stays in keep.items()
                if not stays.all()
                and any(one.param.startswith(f"{module}.") for one in self.structure.group(name).slices)
            }
            if module and found:
                return found
        return {}

    def _filled(
        self, keep: Keep, held: Mapping[str, str], fixed: Mapping[str, np.ndarray], *, bias_propagation: bool
    ) -> Filled:
        """The network with the constants or means of removed units in their readers' biases."""
        if bias_propagation and self.silenced is None:  # what masks silenced is its own mean
            return fill_means(self.model, self.structure, keep, self._batches())
        stay = self.silenced is not None
        fill = partial(fill_constants, self.model, self.structure, inputs=self.inputs, stay=stay, fixed=fixed)
        return fill(keep=keep) if self.silenced is None else self.silenced.filled(held, lambda keep: fill(keep=keep))

    def _batches(self) -> Iterable[Any]:
        """Model inputs, one batch after the other."""
        if self.request.data is None:
            return [self.inputs]
        if reads_images(self.request.criterion):
            plain = Views(None, 1, 256, None, self.generator)
            return (inputs for _, inputs in plain.batches(self.request.data))
        return (split_batch(batch, number)[0] for number, batch in enumerate(self.request.data))

    def report(
        self,
        choice: Choice,
        held: Mapping[str, str],
        filled: Filled | None = None,
        proof: Proof | None = None,
        small: nn.Module | None = None,
    ) -> ShrinkReport:
        """What was or would be removed."""
        proof = proof or Proof(inexact=counted(self.structure, choice.keep))
        everything = {group.name: np.ones(group.units, bool) for group in self.structure.prunable}
        before, after = (
            Size(self.costs.params(keep), self.costs.macs(keep), self.costs.bytes(keep))
            for keep in (everything, choice.keep)
        )
        if small is not None:  # biases that were made count
            after = replace(after, params=sum(one.numel() for one in small.parameters()), bytes=_bytes(small))
        return ShrinkReport(
            before=before,
            after=after,
            units={name: (int(stays.sum()), len(stays)) for name, stays in {**everything, **choice.keep}.items()},
            asked=choice.asked,
            removed=choice.removed,
            max_difference=proof.difference,
            proven=proof.proven,
            exact=proof.exact,
            rounding=proof.rounding,
            inexact=proof.inexact,
            held={**choice.held, **held},
            barriers=self.structure.barriers,
            conditions=proof.conditions,
            notes=proof.notes,
            folded={} if filled is None else filled.done.spread,
            budget=self._budgeted(choice, after),
            seconds=self.seconds,
        )


def _bytes(model: nn.Module) -> int:
    tensors = named_tensors(model)
    return sum(tensors[name].numel() * size for name, size in element_sizes(model).items())


@dataclass(frozen=True, eq=False)
class _Result:
    """What came out, before anything is told of it."""

    choice: Choice
    held: Mapping[str, str]
    filled: Filled
    built: Built
    proof: Proof


def _with(choice: Choice, filled: Filled) -> Choice:
    """The choice of what stays in `filled`, which can be more, and why."""
    removed = sum(int((~stays).sum()) for stays in filled.keep.values())
    return replace(choice, keep=dict(filled.keep), held={**filled.held, **choice.held}, removed=removed)


def _added(small: nn.Module, names: Iterable[str]) -> list[Added]:
    """The biases that were made, and the weights that they stand beside."""
    after = dict(small.named_parameters(remove_duplicate=False))
    found = []
    for name in names:
        owner = small.get_submodule(name.rpartition(".")[0])
        beside = next(one for one in owner.parameters() if one is not after[name])
        found.append(Added(after[name], beside, name))
    return found


def _carried(model: nn.Module, small: nn.Module, plan: ShrinkPlan) -> list[Carried]:
    """The pairs of parameters before and after."""
    after = dict(small.named_parameters(remove_duplicate=False))
    return [Carried(old, after[name], plan.kept.get(name, {})) for name, old in model.named_parameters()]
