"""The contract of criteria of units catches what it says it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.testing import check_unit_criterion
from sparsewood.unit_criteria import FilterNorm, MeanActivation, UnitCriterion

DOCUMENTED = "score_j = something. Source: https://example.org."
Scores = dict[str, Tensor]
Given = dict[str, Any]


def criterion(
    call: Callable[[nn.Module, sw.Structure, Given], Scores],
    *,
    documentation: str = DOCUMENTED,
    reads_data: bool = False,
    reads_loss: bool = False,
) -> UnitCriterion:
    @dataclass(frozen=True)
    class Made(UnitCriterion):
        def __call__(self, model: nn.Module, structure: sw.Structure, **given: Any) -> Scores:
            return call(model, structure, given)

        def __repr__(self) -> str:
            return "Made()"

    Made.__doc__ = documentation
    Made.reads_data, Made.reads_loss = reads_data, reads_loss  # type: ignore[misc]
    return Made()


def norms(model: nn.Module, structure: sw.Structure, given: Given) -> Scores:
    return FilterNorm()(model, structure, **given)


def changed(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, sw.Structure, Given], Scores]:
    return lambda model, structure, given: {name: change(one) for name, one in norms(model, structure, given).items()}


def in_place(model: nn.Module, structure: sw.Structure, given: Given) -> Scores:
    found = norms(model, structure, given)
    next(model.parameters()).data.add_(1.0)
    return found


def keeps_a_hook(model: nn.Module, structure: sw.Structure, given: Given) -> Scores:
    model.register_forward_hook(lambda *_: None)
    return norms(model, structure, given)


def of_the_first_batch(model: nn.Module, structure: sw.Structure, given: Given) -> Scores:
    if given["data"] is None:
        raise sw.SparsewoodError("No data.")
    given = {**given, "data": given["data"][:1]}
    return MeanActivation()(model, structure, **given)


def of_the_first(model: nn.Module, structure: sw.Structure, given: Given) -> Scores:
    x, _ = given["data"][0]
    return {name: one + float(x.mean()) for name, one in norms(model, structure, given).items()}


def of_one_layer(model: nn.Module, structure: sw.Structure, given: Given) -> Scores:
    return {"0": norms(model, structure, given)["0"]}


def needs_a_loss(model: nn.Module, structure: sw.Structure, given: Given) -> Scores:
    if given["loss"] is None:
        raise sw.SparsewoodError("No loss.")
    return norms(model, structure, given)


BROKEN: list[tuple[UnitCriterion, str]] = [
    (criterion(norms, documentation="Nothing."), "give the formula of score_j"),
    (criterion(norms, documentation="score_j = 1."), "must name its source"),
    (criterion(of_one_layer), r"gives scores to \['0'\]; the groups are \['0', '3'\]"),
    (criterion(changed(lambda one: one.float())), r"torch.float32\[6\]; expected torch.float64\[6\]"),
    (criterion(changed(lambda one: one[1:])), r"torch.float64\[5\]; expected torch.float64\[6\]"),
    (criterion(changed(lambda one: one / 0)), "not all finite"),
    (criterion(changed(lambda one: one.requires_grad_())), "require a gradient"),
    (criterion(changed(torch.rand_like)), "differ between two calls with equal generators"),
    (criterion(norms, reads_data=True), "reads data; without, it must raise a SparsewoodError. Got nothing"),
    (criterion(of_the_first, reads_data=True), "must raise a SparsewoodError. Got TypeError"),
    (criterion(needs_a_loss), "needs a loss, though it does not say that it reads any"),
    (criterion(in_place), "differ between two calls|scoring changed"),
    (criterion(keeps_a_hook), "scoring changed the hooks of the model"),
    (criterion(changed(lambda one: torch.arange(len(one)).double())), "does not permute its scores"),
    (criterion(of_the_first_batch, reads_data=True), "depend on how the data are cut into batches"),
]


@pytest.mark.parametrize(("broken", "message"), BROKEN, ids=[message[:24] for _, message in BROKEN])
def test_broken_criteria_of_units_are_found(broken: UnitCriterion, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_unit_criterion(broken)


def test_a_correct_criterion_of_ones_own_passes() -> None:
    check_unit_criterion(criterion(norms))


def test_scores_that_are_drawn_need_not_follow_the_units() -> None:
    def drawn(_: nn.Module, structure: sw.Structure, given: Given) -> Scores:
        generator = given["generator"]
        return {
            group.name: torch.rand(group.units, generator=generator, dtype=torch.float64)
            for group in structure.prunable
        }

    check_unit_criterion(criterion(drawn))


def test_thawed_criteria_are_found() -> None:
    @dataclass
    class Thawed(UnitCriterion):
        """score_j = 1. Source: https://example.org."""

        def __call__(self, model: nn.Module, structure: sw.Structure, **given: Any) -> Scores:
            return norms(model, structure, given)

    with pytest.raises(AssertionError, match="Thawed must be a frozen dataclass"):
        check_unit_criterion(Thawed())
