"""Random networks: whatever is asked for goes, exactly, and the small network does what the masked one did.

`SPARSEWOOD_EXAMPLES=1000 pytest tests/shrinking/test_random_networks.py` tries more of them.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.testing.networks import random_networks

EXAMPLES = int(os.environ.get("SPARSEWOOD_EXAMPLES", "60"))
EXACT = 1e-9

the_same_every_time = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
pytestmark = pytest.mark.timeout(60 + 5 * EXAMPLES)


def least(structure: sw.Structure, min_units: int) -> int:
    """How many units have to stay."""
    return sum(min(group.units, min_units) for group in structure.prunable)


def counted_alike(model: nn.Module) -> bool:
    """Whether `measure` counts the same: it has nothing for bilinear layers, and einsum differs at a width of 1."""
    return not any(isinstance(one, nn.Bilinear) or getattr(one, "name", "") == "einsum" for one in model.modules())


def check_counts(shrunk: sw.Shrunk, inputs: Tensor) -> None:
    """What the report says is what is there."""
    small, after = shrunk.model, shrunk.report.after
    assert after.params == sum(p.numel() for p in small.parameters())
    assert after.bytes == sum(t.numel() * t.element_size() for t in [*small.parameters(), *small.buffers()])
    if counted_alike(small):
        assert after.macs == sw.measure(small, inputs).macs


def check_proof(shrunk: sw.Shrunk, structure: sw.Structure) -> None:
    """Equal to rounding, or every group that is not says why, and all others are."""
    report = shrunk.report
    assert report.max_difference is not None
    if report.exact:
        assert report.max_difference <= EXACT
        assert not report.inexact
        return
    touched = {name for name, (kept, units) in report.units.items() if kept < units}
    assert report.inexact
    assert set(report.inexact) <= touched
    assert all(report.inexact.values())
    assert all(not structure.group(name).exact for name in report.inexact)
    if touched - set(report.inexact):
        assert report.proven is not None
        assert report.proven <= EXACT


@the_same_every_time
@given(
    random_networks(),
    st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]),
    st.sampled_from([sw.Everywhere(), sw.PerLayer(), sw.Isomorphic()]),
    st.sampled_from([1, 1, 2, 4]),
    st.sampled_from([1, 1, 2]),
)
def test_what_is_asked_for_goes(
    drawn: tuple[nn.Module, Tensor], sparsity: float, scope: Any, round_to: int, min_units: int
) -> None:
    model, inputs = drawn
    structure = sw.trace(model, inputs)
    units = sum(group.units for group in structure.prunable)
    try:
        shrunk = sw.shrink(
            model, inputs, sparsity, scope=scope, round_to=round_to, min_units=min_units, structure=structure
        )
    except SparsewoodError as error:
        message = str(error)
        floors = (1 - sparsity) * units < least(structure, min_units) + len(structure.prunable)
        few = sparsity * units < len(structure.prunable) + 1
        if (floors and ("can go" in message or "must stay" in message)) or (
            (floors or few or round_to > 1) and "No unit of" in message
        ):
            return
        raise
    report = shrunk.report
    if round_to == 1:
        assert report.removed == report.asked
    assert report.removed == sum(whole - kept for kept, whole in report.units.values())
    assert report.removed > 0 or report.asked == 0
    assert all(kept >= min(whole, min_units) for kept, whole in report.units.values())
    for name, (kept, whole) in report.units.items():
        made = [
            one for one in structure.group(name).slices if one.role != "in" and len(structure.shapes[one.param]) > 1
        ]
        widths = [int((one.owner == 0).sum()) * kept for one in made]
        assert kept == whole or all(width % round_to == 0 for width in widths), name
    check_counts(shrunk, inputs)
    check_proof(shrunk, structure)
    assert not shrunk.model.training


@the_same_every_time
@given(random_networks(), st.integers(0, 2**31))
def test_any_set_of_units_may_go(drawn: tuple[nn.Module, Tensor], seed: int) -> None:
    """Also units that no score would choose together; the original is as it was, and shrinking again goes on."""
    model, inputs = drawn
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    structure = sw.trace(model, inputs)
    units = sum(group.units for group in structure.prunable)
    gone = min(units // 2, units - least(structure, 1))
    assume(gone > 0)
    random = sw.Random()
    generator = torch.Generator().manual_seed(seed)
    shrunk = sw.shrink(model, inputs, gone, criterion=random, generator=generator, structure=structure)
    assert shrunk.report.removed == gone
    check_counts(shrunk, inputs)
    check_proof(shrunk, structure)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    again = sw.trace(shrunk.model, inputs)
    left = sum(group.units for group in again.prunable) - least(again, 1)
    if left:
        check_proof(sw.shrink(shrunk.model, inputs, (left + 1) // 2, structure=again), again)
