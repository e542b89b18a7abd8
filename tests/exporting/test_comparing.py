"""What the check of an export sees, and what it leaves as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.exporting.batch import open_batch
from sparsewood.exporting.comparing import compare

X = torch.arange(6.0).reshape(2, 3)


class Words(nn.Module):
    """Whole numbers as large as a vocabulary."""

    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(1) + 50_000


class Noisy(nn.Module):
    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.fc = share, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + self.share * torch.randn_like(x))


def test_whole_numbers_are_the_same() -> None:
    """One more or less is little of a large number, and a different word."""
    model = Words()

    def run(x: Any) -> list[Tensor]:
        return [model(x) + 1]

    with pytest.raises(SparsewoodError, match=r"differs by 1, 2e-05 of its largest value; allowed is 0\."):
        compare(model, run, X, batches=False, tolerance=None)
    assert compare(model, run, X, batches=False, tolerance=1e-4).differences[0].absolute == 1
    assert compare(model, lambda x: [model(x)], X, batches=False, tolerance=None).differences[0].absolute == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_dtypes_of_outputs_are_the_same(dtype: torch.dtype) -> None:
    with pytest.raises(SparsewoodError, match=r"gives float\d\d\[2, 3\] .*, and the network float32\[2, 3\]"):
        compare(nn.Identity(), lambda x: [x.to(dtype)], X, batches=False, tolerance=1.0)


def test_outputs_that_are_undefined_are_noted() -> None:
    found = compare(nn.Identity(), lambda x: [x], X / 0, batches=False, tolerance=None)
    assert found.notes == ("on the example inputs there is NaN in output, where there is nothing to compare",)


def test_an_engine_that_says_nothing_of_what_is_wrong() -> None:
    def run(_: Any) -> list[Tensor]:
        raise AssertionError

    with pytest.raises(SparsewoodError, match=r"does not run on example inputs .*: AssertionError"):
        compare(nn.Identity(), run, X, batches=False, tolerance=None)


@pytest.mark.parametrize("ending", ["pt2", "safetensors", "pt"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_random_state_is_the_same_for_both_and_left_as_it_was(ending: str, share: float, tmp_path: Path) -> None:
    """What PyTorch runs draws the same numbers, also if the network is random in eval mode."""
    model = Noisy(share)
    state = torch.get_rng_state()
    report = sw.export(model, tmp_path / f"net.{ending}", X)
    assert report.max_difference == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_as_long_as_a_doubled_batch_is_no_batch(tmp_path: Path) -> None:
    """PyTorch traces a batch of one as two; a table of two rows has two for every batch."""

    class Table(nn.Module):
        def forward(self, x: Tensor, table: Tensor) -> Tensor:
            return x @ table.T

    inputs = torch.randn(1, 3), torch.randn(2, 3)
    assert [bool(axes) and axes[0] is not None for axes in open_batch(Table(), inputs)[1].values()] == [True, False]
    report = sw.export(Table(), tmp_path / "net.pt2", inputs)
    assert [one.batch for one in report.differences] == [1, 2, 2]
