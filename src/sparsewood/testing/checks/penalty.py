"""The contract of a penalty."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsewood.parameters import entries
from sparsewood.penalties import Penalty, UnitMap, Weights
from sparsewood.structure import Structure, trace
from sparsewood.testing.checks.shared import check_value, expect, fingerprint
from sparsewood.train.penalizing import penalize

__all__ = ["check_penalty"]

STEPS = (0, 1, 25, 10_000)


def check_penalty(penalty: Penalty) -> None:
    """The contract of a penalty.

    It is a frozen dataclass whose repr rebuilds it, and its docstring gives formula and source. Its gradient is that
    which autograd finds of its value, at several steps of a training, also where whole units are 0; it has the
    parameters' shapes, once broadcast. What it decides once does not depend on when. Carried out, it leaves weights,
    modes, hooks and random state alone, and after its removal the optimizer's steps are plain ones.

    The network has convolutions, BatchNorm, a shortcut and a linear layer.
    """
    check_value(penalty, Penalty)
    text = type(penalty).__doc__ or ""
    for part in ("value =", "gradient", "Source:"):
        expect(part in text, f"The docstring of {type(penalty).__name__} must have {part!r}")
    model = _Network().double()
    structure = trace(model, torch.zeros(1, 1, 6, 6, dtype=torch.float64))
    for zeros in (False, True):
        if zeros:
            _silence(model, structure)
        for step in STEPS:
            _check_gradient(penalty, model, structure, step)
    _check_no_trace(penalty, model, structure)


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem, self.stem_norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
            self.inner, self.inner_norm = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
            self.outer, self.head = nn.Conv2d(5, 6, 3, padding=1), nn.Linear(6, 3)
            for norm in (self.stem_norm, self.inner_norm):
                nn.init.uniform_(norm.weight, -1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = x + self.outer(torch.relu(self.inner_norm(self.inner(x))))
        return self.head(x.mean((2, 3)))


def _silence(model: nn.Module, structure: Structure) -> None:
    """Set the first unit of every group to 0, wherever it lies."""
    keep = {group.name: [False] + [True] * (group.units - 1) for group in structure.prunable}
    with torch.no_grad():
        for name, mask in structure.to_masks(keep).items():
            model.get_parameter(name).masked_fill_(~mask, 0)


def _weights(penalty: Penalty, model: nn.Module, structure: Structure, step: int) -> Weights:
    tensors = {e.name: e.parameter for e in entries(model) if penalty.covers(e)}
    expect(bool(tensors), f"{penalty} covers no parameter of a network with convolutions and BatchNorm")
    units = UnitMap.of(structure, tensors) if penalty.grouped else None
    return Weights(tensors, units, step, penalty.decide(Weights(tensors, units, step)))


def _check_gradient(penalty: Penalty, model: nn.Module, structure: Structure, step: int) -> None:
    weights = _weights(penalty, model, structure, step)
    first = penalty.decide(Weights(weights.tensors, weights.units, 0))
    same = set(first) == set(weights.decided) and all(torch.equal(first[name], weights.decided[name]) for name in first)
    expect(same, f"{penalty}: what it decides depends on the step")
    value = penalty.value(weights)
    expect(value.dim() == 0 and bool(torch.isfinite(value)), f"{penalty}: the value is no finite number: {value}")
    found = torch.autograd.grad(value, list(weights.tensors.values()), allow_unused=True)
    with torch.no_grad():
        given = penalty(weights)
    expect(set(given) <= set(weights.tensors), f"{penalty}: a gradient is of parameters that it was not given")
    for (name, tensor), expected in zip(weights.tensors.items(), found, strict=True):
        own = given.get(name, torch.zeros(())).to(tensor.dtype).expand(tensor.shape)
        close = torch.allclose(own, torch.zeros_like(tensor) if expected is None else expected, rtol=1e-9, atol=1e-12)
        expect(close, f"{penalty}: the gradient of {name} at step {step} is not that of the value")


def _check_no_trace(penalty: Penalty, model: nn.Module, structure: Structure) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    before = fingerprint(model)
    penalizer = penalize(model, penalty, optimizer, structure=structure)
    expect(fingerprint(model) == before, f"{penalty}: beginning changed the model")
    optimizer.step()
    penalizer.remove()
    optimizer.zero_grad()
    expect(fingerprint(model) == before, f"{penalty}: a step with learning rate 0 changed the model")
    optimizer.step()
    left = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    expect(not left, f"{penalty}: after its removal a gradient is added to {', '.join(left)}")
