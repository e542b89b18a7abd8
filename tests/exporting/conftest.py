"""Networks of all sorts to export, and what an export must not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from sparsewood.exporting.outputs import named_tensors
from sparsewood.inputs import call

Built = tuple[nn.Module, Any]


class TwoInputs(nn.Module):
    """An image and words, BatchNorm behind convolutions, outputs in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.norm2 = nn.Conv2d(6, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4)
        self.words = nn.Embedding(7, 4)

    def forward(self, image: Tensor, ids: Tensor) -> dict[str, Any]:
        x = F.relu(self.norm1(self.first(image)))
        x = self.norm2(self.second(x)).mean((2, 3))
        words = self.words(ids)
        return {"logits": x + words.mean(1), "more": [words, None, x.mean()]}


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, a: Tensor, *, b: Tensor, scale: float = 2.0) -> Tensor:
        return scale * self.left(a) + self.right(b)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Functional(nn.Module):
    """Weights that no module multiplies with, one of them tied, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.again = self.weight
        self.register_buffer("shift", torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.gelu(F.linear(x, self.weight)), self.again) + self.shift


class ToScalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).square().mean()


class Nested(nn.Module):
    """Tensors in a list and in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, pair: list[Tensor], rest: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.fc(pair[0] + pair[1]), rest["more"] * 2


class Zeros(nn.Module):
    """A part of the output is always zero, so that a difference relative to it has nothing to divide by."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Ends(NamedTuple):
    low: Tensor
    high: Tensor


class ToEnds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Ends:
        x = self.fc(x)
        return Ends(x.amin(1), x.amax(1))


@dataclass
class Record:
    low: Tensor
    high: Tensor


class ToRecord(nn.Module):
    def forward(self, x: Tensor) -> Record:
        return Record(x.amin(1), x.amax(1))


def _masked() -> nn.Module:
    layer = nn.Linear(6, 4)
    prune.random_unstructured(layer, "weight", amount=12)
    return layer


def _attention() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)


NETWORKS: dict[str, Callable[[], Built]] = {
    "two inputs": lambda: (TwoInputs(), (torch.randn(2, 3, 8, 8), torch.randint(0, 7, (2, 5)))),
    "by keyword": lambda: (ByKeyword(), {"a": torch.randn(2, 3), "b": torch.randn(2, 5)}),
    "lstm": lambda: (Recurrent(), torch.randn(2, 3, 4)),
    "functional": lambda: (Functional(), torch.randn(2, 6)),
    "scalar": lambda: (ToScalar(), torch.randn(2, 3)),
    "nested inputs": lambda: (Nested(), ([torch.randn(2, 3), torch.randn(2, 3)], {"more": torch.randn(2, 2)})),
    "named tuple": lambda: (ToEnds(), torch.randn(2, 3)),
    "masked": lambda: (_masked(), torch.randn(2, 6)),
    "weight norm": lambda: (parametrizations.weight_norm(nn.Linear(3, 2)), torch.randn(2, 3)),
    "half": lambda: (nn.Linear(3, 2).half(), torch.randn(2, 3).half()),
    "attention": lambda: (_attention(), torch.randn(2, 4, 8)),
    "zeros": lambda: (Zeros(), torch.randn(2, 3)),
}


@pytest.fixture
def network() -> Callable[[str], Built]:
    """Builds a network by its name, in train mode, with inputs for it."""

    def build(name: str) -> Built:
        torch.default_generator.manual_seed(0)
        return NETWORKS[name]()

    return build


@pytest.fixture(params=list(NETWORKS))
def built(request: pytest.FixtureRequest, network: Callable[[str], Built]) -> Built:
    """Each of the networks."""
    return network(request.param)


@pytest.fixture
def record() -> nn.Module:
    """A network that returns a dataclass which PyTorch does not know."""
    return ToRecord()


def _everything_of(model: nn.Module) -> tuple[Any, ...]:
    tensors = [(name, id(tensor)) for name, tensor in model.state_dict(keep_vars=True).items()]
    modules = [(name, type(module), module.training, sorted(vars(module))) for name, module in model.named_modules()]
    hooks = [(dict(module._forward_hooks), dict(module._forward_pre_hooks)) for module in model.modules()]
    return tensors, modules, hooks, [(p.requires_grad, p.grad) for p in model.parameters()]


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    before, state = _everything_of(model), torch.get_rng_state()
    values = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    yield
    assert _everything_of(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())


@pytest.fixture
def unchanged() -> Callable[[nn.Module], AbstractContextManager[None]]:
    """A block behind which a network and the random state are as before."""
    return _unchanged


def _reference(model: nn.Module, inputs: Any) -> list[Tensor]:
    was = model.training
    with torch.no_grad():
        found = [tensor for _, tensor in named_tensors(call(model.eval(), inputs))]
    model.train(was)
    return found


def _close(one: list[Tensor], other: list[Any]) -> bool:
    assert len(one) == len(other)
    coarse = any(tensor.dtype is torch.float16 for tensor in one)
    return all(
        tuple(x.shape) == tuple(y.shape) and np.allclose(x.numpy(), np.asarray(y), atol=1e-2 if coarse else 1e-5)
        for x, y in zip(one, other, strict=True)
    )


@pytest.fixture
def reference() -> Callable[[nn.Module, Any], list[Tensor]]:
    """The tensors that a network returns in eval mode."""
    return _reference


@pytest.fixture
def close() -> Callable[[list[Tensor], list[Any]], bool]:
    """Whether tensors are arrays, up to rounding."""
    return _close
