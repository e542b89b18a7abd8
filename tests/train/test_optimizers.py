"""Optimizer settings. Requirements 000-11, 001-06 (SGD .1, momentum .9, weight decay 5e-4 and the like)."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, asdict
from typing import Any

import pytest
import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.train import optimizers
from sparsewood.train.optimizers import SGD, Adam, AdamW, OptimizerSettings


@pytest.mark.parametrize("name", optimizers.__all__)
def test_every_setting_reaches_the_optimizer(name: str) -> None:
    """[000-11] Nothing that is asked for is dropped on the way: each field is an option of PyTorch's optimizer."""
    asked = {
        "SGD": SGD(0.01, 0.5, 5e-4, nesterov=True),
        "Adam": Adam(0.02, (0.8, 0.9), 1e-6, 0.3),
        "AdamW": AdamW(0.03, (0.7, 0.95), 1e-7, 0.2),
    }[name]
    optimizer = asked(nn.Linear(2, 1).parameters())
    assert type(optimizer) is getattr(torch.optim, name)
    assert {field: optimizer.defaults[field] for field in asdict(asked)} == asdict(asked)
    assert asked.rate == asked.lr


@pytest.mark.parametrize("name", optimizers.__all__)
def test_values_are_frozen_equal_and_hashable(name: str) -> None:
    kind = getattr(optimizers, name)
    assert issubclass(kind, OptimizerSettings)
    assert kind() == kind()
    assert hash(kind()) == hash(kind())
    with pytest.raises(FrozenInstanceError):
        kind().lr = 1.0


def test_defaults_are_those_of_pytorch() -> None:
    for kind, theirs in ((Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)):
        signature = inspect.signature(theirs.__init__).parameters
        assert asdict(kind()) == {name: signature[name].default for name in asdict(kind())}


def test_betas_from_a_file_are_a_list() -> None:
    assert Adam(betas=[0.9, 0.99]) == Adam(betas=(0.9, 0.99))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SGD(lr=-0.1), r"SGD: lr must be a finite number >= 0\. Got -0\.1"),
        (lambda: SGD(lr=float("nan")), "Got nan"),
        (lambda: SGD(lr=float("inf")), "Got inf"),
        (lambda: SGD(lr="0.1"), r"Got '0\.1'"),
        (lambda: SGD(momentum=1.0), r"momentum must be in \[0, 1\)\. Got 1\.0"),
        (lambda: SGD(weight_decay=True), "weight_decay.*Got True"),
        (lambda: SGD(momentum=0, nesterov=True), "nesterov needs a momentum"),
        (lambda: Adam(betas=(0.9,)), r"Adam: betas must be two numbers"),
        (lambda: Adam(betas=(0.9, 1.0)), r"Adam: betas must be in \[0, 1\)"),
        (lambda: AdamW(eps=-1), "AdamW: eps"),
        (lambda: AdamW(weight_decay=-1), "AdamW: weight_decay"),
    ],
)
def test_values_that_mean_nothing_are_refused(make: Any, said: str) -> None:
    with pytest.raises(SparsewoodError, match=said):
        make()
