import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.measurement.jacobian import jacobian_contributions
from sparsewood.snapshot import untouched


class Restless(nn.Module):
    """Changes everything it can reach in `forward`, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("calls", torch.zeros(2))
        self.register_buffer("replaced", torch.ones(2))
        self.register_buffer("absent", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        self.replaced = torch.full((5,), 7.0)
        self.absent = torch.ones(1)
        self.register_buffer("late", torch.ones(1))
        self.layer.bias.requires_grad_(False)
        torch.rand(3)
        return self.norm(self.layer(x))


def everything(model: nn.Module) -> dict[str, object]:
    return {
        "modes": [module.training for module in model.modules()],
        "buffers": {name: (id(buffer), buffer.clone()) for name, buffer in model.named_buffers()},
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [(id(p.grad), None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        "values": [parameter.detach().clone() for parameter in model.parameters()],
        "random": torch.get_rng_state(),
    }


def same(before: object, after: object) -> bool:
    if isinstance(before, torch.Tensor):
        return isinstance(after, torch.Tensor) and torch.equal(before, after)
    if isinstance(before, dict):
        return (
            isinstance(after, dict) and list(before) == list(after) and all(same(before[k], after[k]) for k in before)
        )
    if isinstance(before, list | tuple):
        return len(before) == len(after) and all(map(same, before, after))  # type: ignore[arg-type]
    return before == after


@pytest.fixture
def model() -> Restless:
    model = Restless()
    model.norm.eval()  # mixed modes
    model.layer.weight.grad = torch.full((3, 3), 2.0)
    return model


@pytest.mark.parametrize("training", [False, True, None])
def test_leaves_no_trace(model, training):
    before = everything(model)
    with untouched(model, training=training):
        model(torch.randn(4, 3)).sum().backward()
        model.layer.weight.grad = None
    assert same(before, everything(model))
    assert model.absent is None
    assert "late" not in model._buffers


def test_leaves_no_trace_after_an_error(model):
    before = everything(model)

    def fail() -> None:
        with untouched(model, training=True):
            model(torch.randn(4, 3)).sum().backward()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert same(before, everything(model))


@pytest.mark.parametrize(
    ("training", "inside"), [(False, [False] * 3), (True, [True] * 3), (None, [True, True, False])]
)
def test_mode_inside(model, training, inside):
    with untouched(model, training=training):
        assert [module.training for module in model.modules()] == inside


def test_gradients_inside_start_clean(model):
    alone = copy.deepcopy(model)
    alone.zero_grad()
    with untouched(model), untouched(alone):
        for each in (model, alone):
            each(torch.ones(4, 3)).sum().backward()
        assert torch.equal(model.layer.weight.grad, alone.layer.weight.grad)
    assert torch.equal(model.layer.weight.grad, torch.full((3, 3), 2.0))


def test_unchanged_buffers_are_not_written():
    """A write would invalidate the caller's graph."""
    norm = nn.BatchNorm1d(3).eval()
    x = torch.randn(4, 3, requires_grad=True)
    out = norm(x)
    with untouched(norm):
        norm(torch.randn(4, 3))
    out.sum().backward()
    assert x.grad is not None


def test_nests(model):
    before = everything(model)
    with untouched(model, training=True), untouched(model):
        model(torch.randn(4, 3))
    assert same(before, everything(model))


def test_resized_and_nan_buffers_come_back():
    module = nn.Module()
    module.register_buffer("grown", torch.ones(2))
    module.register_buffer("nan", torch.tensor([float("nan"), 1.0]))
    with untouched(module):
        module.grown.resize_(5).zero_()
        module.nan.zero_()
    assert torch.equal(module.grown, torch.ones(2))
    assert module.nan.isnan().tolist() == [True, False]


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_buffers_come_back(layout):
    module = nn.Module()
    module.register_buffer("adjacency", torch.eye(3).to_sparse(layout=layout))
    with untouched(module):
        module.adjacency.mul_(2)
    assert torch.equal(module.adjacency.to_dense(), torch.eye(3))


def test_lazy_modules_are_refused():
    model = nn.Sequential(nn.ReLU(), nn.LazyLinear(3))
    with pytest.raises(SparsewoodError, match=r"'1.weight' of Sequential has no shape yet.*Run the model once"):
        untouched(model).__enter__()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_random_state_comes_back():
    model = nn.Dropout(0.5)
    model.register_buffer("here", torch.ones(1, device="cuda"))
    before = torch.cuda.get_rng_state()
    with untouched(model, training=True):
        model(torch.ones(100, device="cuda"))
    assert torch.equal(before, torch.cuda.get_rng_state())


@pytest.mark.parametrize(
    "reading",
    [
        lambda net, data: sw.prune(net, sw.WeightTimesGradient(), 0.5, data=data, loss=F.cross_entropy, iterations=2),
        lambda net, data: sw.collect(net, data, [sw.units.ZeroFraction()]),
        lambda net, data: sw.apoz(net, data, layers="0"),
        lambda net, data: jacobian_contributions(net, {"0.weight": torch.ones(3, 4, dtype=torch.bool)}, data),
    ],
    ids=["prune in steps", "collect of units", "apoz of a layer", "jacobian_contributions"],
)
def test_a_shuffling_loader_may_draw_and_the_random_state_stays(reading: Callable[[nn.Module, Any], object]) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    rows = [(torch.randn(4), torch.tensor(i % 2)) for i in range(6)]
    state = torch.get_rng_state()
    reading(net, DataLoader(rows, 2, shuffle=True))
    assert torch.equal(state, torch.get_rng_state())


def test_an_embedding_that_shortens_its_rows_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Embedding(5, 3, max_norm=0.5), nn.Flatten(), nn.Linear(6, 2))
    before = net[0].weight.detach().clone()
    data = [(torch.tensor([[0, 1], [2, 3]]), torch.tensor([0, 1]))]
    sw.prune(net, sw.WeightTimesGradient(), 0.5, data=data, loss=F.cross_entropy)
    sw.apoz(net, data)
    assert torch.equal(net[0].weight, before)


def test_what_a_loader_draws_differs_from_batch_to_batch() -> None:
    seen: list[float] = []

    def batches() -> Iterator[torch.Tensor]:
        for _ in range(3):
            x = torch.rand(2, 4)
            seen.append(float(x.sum()))
            yield x

    sw.apoz(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), batches(), layers="0")
    assert len(set(seen)) == 3
