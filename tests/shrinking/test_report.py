"""What a report and a plan print: numbers that were asked for and reached, how it was proven, what stays and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.budgets import Latency, Params
from sparsewood.shrinking.plan import Edit, ShrinkPlan
from sparsewood.shrinking.report import Budgeted, ShrinkReport, Size
from sparsewood.structure import Barrier

BOTH = ("eval mode", "eval mode, random inputs")
REPORT = ShrinkReport(
    before=Size(1000, 2000, 4000),
    after=Size(500, 500, 2000),
    units={"conv1": (60, 84), "conv2": (52, 100)},
    asked=72,
    removed=72,
    max_difference=1e-15,
    exact=True,
    conditions=BOTH,
)


def line(report: ShrinkReport, start: str) -> str:
    found = [one for one in str(report).splitlines() if start in one]
    assert len(found) == 1, found
    return found[0]


def test_units_that_were_asked_for_are_told_where_others_went() -> None:
    assert line(REPORT, "removed") == "72 of 184 units removed, from 2 of 2 groups"
    more = replace(REPORT, asked=92)
    assert line(more, "removed") == "72 of 184 units removed (92 asked for), from 2 of 2 groups"
    # With a budget the number was found by the search: nobody has asked for it.
    assert "asked for" not in str(replace(more, budget=Budgeted(Params(0.5), 500, 500)))


@pytest.mark.parametrize(
    ("conditions", "text"),
    [
        (("eval mode",), "(eval mode; example inputs)"),
        (BOTH, "(eval mode; example and random inputs)"),
        (
            (*BOTH, "train mode", "train mode, random inputs"),
            "(eval and train mode; example and random inputs)",
        ),
        ((*BOTH, "train mode"), "(eval mode, example and random inputs; train mode, example inputs)"),
        ((*BOTH, *BOTH), "(eval mode; example and random inputs)"),
        ((), "(the example inputs)"),
    ],
)
def test_each_mode_is_named_once(conditions: tuple[str, ...], text: str) -> None:
    assert line(replace(REPORT, conditions=conditions), "equal to the masked network").endswith(text)


def test_what_moved_into_biases_is_told() -> None:
    assert "folded" not in str(REPORT)
    constant = replace(REPORT, folded={"a.weight": 0.0})
    assert line(constant, "folded") == "folded: the bias of 1 layer took over what removed units add, which is constant"
    means = replace(REPORT, folded={"a.weight": 0.25, "b.weight": 0.5})
    assert line(means, "folded").endswith(
        "the biases of 2 layers took over what removed units add, which varies by up to 0.5"
    )


def test_the_largest_barriers_are_told() -> None:
    barriers = (
        Barrier("aten.a.default", "x", "", "first", 50),
        Barrier("aten.b.default", "y", "", "second", 40),
        Barrier("aten.a.default", "x", "", "first", 5),
        Barrier("aten.c.default", "z", "", "third", 1),
        Barrier("aten.d.default", "", "", "holds nothing", 0),
    )
    lines = [one for one in str(replace(REPORT, barriers=barriers)).splitlines() if one.startswith("stays: ")]
    assert lines == [
        "stays: 55 parameters: first (a in x)",
        "stays: 40 parameters: second (b in y)",
        "stays: 1 more reason, see .barriers",
    ]


@pytest.mark.parametrize(
    ("budgeted", "met", "text"),
    [
        (Budgeted(Params(0.5), 500, 500), True, "Params(0.5): 500 left, 500 allowed"),
        (Budgeted(Params(0.5), 500, 501), False, "Params(0.5): 501 left, 500 allowed (MISSED)"),
        (Budgeted(Params(0.5), 500, None), None, "Params(0.5): 500 allowed"),
        (
            Budgeted(Latency(0.5), 0.01, 0.0104, 0.01),
            True,
            "Latency(0.5): 10.4 ms measured, 10 ms predicted, 10 ms allowed",
        ),
        (
            Budgeted(Latency(0.5), 0.01, 0.0106, 0.01),
            False,
            "Latency(0.5): 10.6 ms measured, 10 ms predicted, 10 ms allowed (MISSED)",
        ),
        (Budgeted(Latency(0.5), 0.01, None, 0.01), None, "Latency(0.5): 10 ms predicted, 10 ms allowed"),
    ],
)
def test_a_missed_budget_is_flagged(budgeted: Budgeted, met: bool | None, text: str) -> None:
    assert budgeted.met is met
    assert str(budgeted) == text
    assert line(replace(REPORT, budget=budgeted), "budget:") == f"budget: {text}"


def test_the_table_of_groups_ends_somewhere() -> None:
    report = replace(REPORT, units={f"layer{i}": (i, 10 * i) for i in range(1, 51)})
    lines = report.table().splitlines()
    assert len(lines) == 41
    assert lines[0] == "layer1    10 ->  1  10.0 %"
    assert lines[-1] == "... and 10 more groups"
    assert report.table(50).splitlines()[-1] == "layer50  500 -> 50  10.0 %"
    assert replace(REPORT, units={}).table() == ""
    bad: Any
    for bad in (0, True, 1.5):
        with pytest.raises(SparsewoodError, match="most must be a whole number >= 1"):
            report.table(bad)


def test_reports_are_one_line_where_values_are_shown() -> None:
    assert repr(REPORT) == "ShrinkReport(72 of 184 units, 1,000 -> 500 parameters, exact)"
    assert repr(replace(REPORT, exact=False)).endswith("not exact)")
    assert repr(replace(REPORT, max_difference=None)).endswith("not verified)")


def test_a_plan_does_not_flood_the_terminal() -> None:
    step = {"by": "Magnitude()", "units": {"a": [3, 9], "b": [2, 11]}}
    edits = tuple(Edit("m", "width", (), i, i - 1) for i in range(5, 105))
    shapes = {f"{i}.weight": (9, 9) for i in range(1000)}
    kept = {"0.weight": {0: torch.arange(3)}, "1.weight": {1: torch.arange(3)}, "2.weight": {}}
    plan = ShrinkPlan("Net", shapes, kept, edits=edits, steps=(step, step))
    assert repr(plan) == "ShrinkPlan(Net: 2 of 1000 tensors cut, edit x100, 2 steps)"
    assert str(plan).splitlines() == [
        repr(plan),
        "  step 1: by=Magnitude(); 5 of 20 units stay in 2 groups",
        "  step 2: by=Magnitude(); 5 of 20 units stay in 2 groups",
    ]


def test_what_shrink_reports_can_be_read() -> None:
    torch.default_generator.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    shrunk = sw.shrink(model, torch.ones(1, 4), 0.5)
    assert shrunk.report.table() == "0  16 -> 8  50.0 %"
    assert "8 of 16 units removed, from 1 of 1 group" in str(shrunk.report)
    assert "stays: " in str(shrunk.report)
    assert len(repr(shrunk.plan)) < 100
    assert np.isfinite(shrunk.report.max_difference or 0.0)
