"""The contract of dynamics: what changes masks while a network trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from sparsewood import allocation, dynamics, schedules
from sparsewood.algebra import round_half_even
from sparsewood.dynamics.base import Dynamics
from sparsewood.masks import not_held
from sparsewood.state import capture, restore
from sparsewood.testing.checks.shared import check_value, expect
from sparsewood.testing.toys import ARCHITECTURES, Architecture
from sparsewood.train import DynamicPruner

__all__ = ["check_dynamics"]

STEPS, EVERY, CUT = 16, 3, 8
OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3),
    "Adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
}
# With what is named there: convolutions, a recurrent layer, and an embedding, which is left alone by default.
NETWORKS: dict[str, list[str] | None] = {"conv_norm": None, "recurrent": None, "tied": ["*"]}


def check_dynamics(rule: Dynamics) -> None:
    """Raise `AssertionError` unless `rule` is one.

    It is a frozen dataclass whose representation rebuilds it, and its docstring has a formula and names its source. On
    convolutions, a recurrent layer and an embedding, with SGD (momentum, weight decay) and Adam, updated every third of
    16 steps: masks are boolean, of every parameter that was chosen, and its zeros are exact after every step; the
    masked weights are zero in the end, as many as `target` says; a training that is cut and gone on with ends in the
    same weights and masks, bit for bit; the same seed gives the same masks.

    >>> from sparsewood.dynamics import RigL
    >>> check_dynamics(RigL(0.5))
    """
    check_value(rule, Dynamics, {**vars(allocation), **vars(schedules), **vars(dynamics)})
    text = type(rule).__doc__ or ""
    expect("Source:" in text, f"The docstring of {type(rule).__name__} must name its source")
    expect("=" in text.partition("Source:")[0], f"The docstring of {type(rule).__name__} must give a formula")
    rule = replace(rule, every=EVERY)
    for name, include in NETWORKS.items():
        toy = next(toy for toy in ARCHITECTURES if toy.name == name)
        for kind, make in OPTIMIZERS.items():
            where = f"{rule} on {name} with {kind}"
            whole = _Training(toy, rule, include, make)
            whole.run(STEPS, where)
            _check_end(rule, whole, where)
            _check_cut(_Training(toy, rule, include, make), whole, where)


@dataclass
class _Training:
    """A network in training."""

    toy: Architecture
    rule: Dynamics
    include: list[str] | None
    make: Callable[[nn.Module], Optimizer]

    def __post_init__(self) -> None:
        self.model = self.toy.build()
        self.optimizer = self.make(self.model)
        self.pruner = self.made()

    def made(self, state: Any = None) -> DynamicPruner:
        return DynamicPruner(
            self.model, self.optimizer, self.rule, steps=STEPS, include=self.include, seed=3, state=state
        )

    def run(self, until: int, where: str) -> None:
        while self.pruner.steps < until:
            inputs = self.toy.inputs(6, seed=self.pruner.steps)
            with torch.random.fork_rng(devices=[]):  # for dropout
                torch.manual_seed(self.pruner.steps)
                outputs = self.model(inputs)
            labels = torch.arange(len(outputs)) % outputs.shape[-1]
            self.optimizer.zero_grad()
            F.cross_entropy(outputs.reshape(len(outputs), -1)[:, : outputs.shape[-1]], labels).backward()
            self.optimizer.step()
            self._expect_zeros(f"{where}, after the optimizer's step {self.pruner.steps + 1}")
            self.pruner.step()
            self._expect_zeros(f"{where}, after step {self.pruner.steps}")

    def _expect_zeros(self, where: str) -> None:
        found = not_held(self.model, self.pruner.masks)  # raises where masks do not fit
        expect(found is None, f"{where}: masked entries are not zero: {found}")


def _check_end(rule: Dynamics, training: _Training, where: str) -> None:
    masks = training.pruner.finish()
    expect(all(bool(mask.any()) for mask in masks.values()), f"{where}: a layer was emptied")
    if rule.target is not None:
        wanted = round_half_even(rule.target * masks.total)
        expect(masks.removed == wanted, f"{where}: {masks.removed} of {masks.total} weights went, expected {wanted}")
    expect(not_held(training.model, masks) is None, f"{where}: the masked weights are not zero in the end")


def _check_cut(training: _Training, whole: _Training, where: str) -> None:
    """Cut in the middle, gone on with in another network that has the weights already, and in one that gets them."""
    training.run(CUT, where)
    state, pruner = capture(training.model, training.optimizer, step=CUT), training.pruner.state()
    for loaded_before in (True, False):
        again = _Training(training.toy, training.rule, training.include, training.make)
        if loaded_before:
            again.pruner.close()
            restore(state, again.model, again.optimizer)
            again.pruner = again.made(pruner)
        else:
            restore(state, again.model, again.optimizer)
            again.pruner.load(*pruner)
        again.run(STEPS, where)
        expect(again.pruner.finish() == whole.pruner.masks, f"{where}: a training that was cut ends in other masks")
        same = all(torch.equal(a, b) for a, b in zip(_weights(again), _weights(whole), strict=True))
        expect(same, f"{where}: a training that was cut ends in other weights")


def _weights(training: _Training) -> list[Tensor]:
    return list(training.model.state_dict().values())
