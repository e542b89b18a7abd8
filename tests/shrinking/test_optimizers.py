"""Optimizers that go on with smaller parameters."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.cut import take
from sparsewood.shrinking.optimizers import Added, Carried, carry
from sparsewood.shrinking.plan import Scaling

Make = Callable[[Iterable[Any]], Optimizer]

ELEMENTWISE: dict[str, Make] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "SGD Nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, foreach=False),
    "Adam amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, foreach=True),
    "AdamW fused=False": lambda p: torch.optim.AdamW(p, lr=0.01, fused=False),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.05, t0=0),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}
WHOLE: dict[str, Make] = {"Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05)}
if hasattr(torch.optim, "Muon"):
    WHOLE["Muon"] = lambda p: torch.optim.Muon([x for x in p if x.dim() == 2], lr=0.05)
EVERY = {**ELEMENTWISE, **WHOLE}
KEPT = torch.tensor([0, 2, 3, 6])


def network(hidden: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, 3)).double()


def small_of(model: nn.Sequential) -> tuple[nn.Sequential, list[Carried]]:
    kept = {"0.weight": {0: KEPT}, "0.bias": {0: KEPT}, "2.weight": {1: KEPT}}
    small = network(len(KEPT))
    small.load_state_dict({name: take(tensor, kept.get(name, {})) for name, tensor in model.state_dict().items()})
    after = dict(small.named_parameters())
    return small, [Carried(old, after[name], kept.get(name, {})) for name, old in model.named_parameters()]


def mask(model: nn.Sequential, optimizer: Optimizer) -> None:
    """Removed units are 0, also in what the optimizer remembers."""
    gone = torch.ones(8, dtype=torch.bool).index_fill(0, KEPT, 0)
    for parameter, axis in ((model[0].weight, 0), (model[0].bias, 0), (model[2].weight, 1)):
        state = optimizer.state.get(parameter, {}).values()
        for tensor in (parameter.data, *(one for one in state if isinstance(one, Tensor))):
            if tensor.shape == parameter.shape:
                tensor.index_fill_(axis, gone.nonzero().flatten(), 0)


def train(model: nn.Module, optimizer: Optimizer, steps: int, seed: int = 0) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        x = torch.randn(16, 5, generator=generator, dtype=torch.float64)
        loss = (model(x) - x[:, :3].sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_training_goes_on_as_that_of_the_masked_network(name: str) -> None:
    torch.manual_seed(0)
    model = network()
    optimizer = ELEMENTWISE[name](model.parameters())
    train(model, optimizer, 4)
    small, pairs = small_of(model)
    masked, beside = copy.deepcopy((model, optimizer))
    mask(masked, beside)
    carry(optimizer, pairs)
    expected = train(masked, beside, 8, seed=1)
    assert train(small, optimizer, 8, seed=1) == pytest.approx(expected, rel=1e-12)
    for pair, old in zip(pairs, masked.parameters(), strict=True):
        torch.testing.assert_close(take(old.detach(), pair.kept), pair.new.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", EVERY)
def test_every_remembered_tensor_is_cut_and_nothing_else_changes(name: str) -> None:
    torch.manual_seed(0)
    model = network()
    optimizer = EVERY[name](model.parameters())
    train(model, optimizer, 2)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    before = {parameter: dict(optimizer.state[parameter]) for parameter in held}
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    small, pairs = small_of(model)
    carry(optimizer, pairs)
    by_old = {pair.old: pair for pair in pairs}
    assert [id(p) for g in optimizer.param_groups for p in g["params"]] == [id(by_old[old].new) for old in held]
    assert [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups] == settings
    assert len(optimizer.state) == len(before)
    for old, remembered in before.items():
        pair = by_old[old]
        found = optimizer.state[pair.new]
        assert found.keys() == remembered.keys()
        for key, value in remembered.items():
            if isinstance(value, Tensor) and value.numel() > 1:
                axes = {axis: kept for axis, kept in pair.kept.items() if value.shape[axis] > 1}
                assert torch.equal(found[key], take(value, axes))
                assert found[key].dtype == value.dtype
            else:
                assert found[key] == value
    losses = train(small, optimizer, 2)
    assert all(torch.isfinite(torch.tensor(losses)))


def test_every_optimizer_of_torch_is_tried() -> None:
    named = {name for name in dir(torch.optim) if name[0].isupper()} - {"Optimizer", "LBFGS", "SparseAdam"}
    assert named == {name.split()[0] for name in EVERY}


def test_rows_and_columns_of_adafactor_are_cut() -> None:
    old, new = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(2, 3))
    optimizer = torch.optim.Adafactor([old])
    old.grad = torch.randn(6, 4)
    optimizer.step()
    rows, columns = optimizer.state[old]["row_var"], optimizer.state[old]["col_var"]
    assert (rows.shape, columns.shape) == ((6, 1), (1, 4))
    kept = {0: torch.tensor([1, 5]), 1: torch.tensor([0, 1, 3])}
    carry(optimizer, [Carried(old, new, kept)])
    assert torch.equal(optimizer.state[new]["row_var"], rows[[1, 5]])
    assert torch.equal(optimizer.state[new]["col_var"], columns[:, [0, 1, 3]])


def test_sparse_adam_is_carried() -> None:
    embedding = nn.Embedding(6, 4, sparse=True)
    optimizer = torch.optim.SparseAdam(embedding.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about checks of sparse tensors
        embedding(torch.tensor([1, 3])).sum().backward()
        optimizer.step()
    before = optimizer.state[embedding.weight]["exp_avg"].clone()
    kept = torch.tensor([0, 3])
    new = nn.Parameter(embedding.weight.detach()[:, kept])
    carry(optimizer, [Carried(embedding.weight, new, {1: kept})])
    assert torch.equal(optimizer.state[new]["exp_avg"], before[:, kept])


def test_lbfgs_is_refused_with_the_reason() -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(SparsewoodError, match="vectors over all parameters"):
        carry(optimizer, small_of(model)[1])


@pytest.mark.parametrize("value", [torch.zeros(3), torch.zeros(8, 4), [torch.zeros(2)]], ids=["vector", "size", "list"])
def test_what_cannot_be_cut_is_refused_before_anything_changes(value: Any) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 1)
    last = model[2].weight
    optimizer.state[last]["odd"] = value
    groups, state = list(optimizer.param_groups[0]["params"]), dict(optimizer.state)
    with pytest.raises(SparsewoodError, match=r"Adam remembers 'odd' .* of parameter 2 of group 0.*\[3, 8\]"):
        carry(optimizer, small_of(model)[1])
    assert all(map(Tensor.is_set_to, groups, optimizer.param_groups[0]["params"]))
    assert list(optimizer.state) == list(state)
    assert all(optimizer.state[one] is state[one] for one in state)


def test_another_models_optimizer_and_other_pairs_are_refused() -> None:
    model = network()
    _, pairs = small_of(model)
    with pytest.raises(SparsewoodError, match="holds none of the 4 parameters"):
        carry(torch.optim.Adam(network().parameters()), pairs)
    wrong = [Carried(pairs[0].old, pairs[0].new, {0: KEPT[:2]})]
    with pytest.raises(SparsewoodError, match=r"has shape \[2, 5\]"):
        carry(torch.optim.Adam(model.parameters()), wrong)
    twice = [pairs[3], Carried(nn.Parameter(torch.zeros(3).double()), pairs[3].new, {})]
    with pytest.raises(SparsewoodError, match="cannot both become"):
        carry(torch.optim.Adam(model.parameters()), twice)


def test_schedulers_hooks_and_foreign_parameters_go_on() -> None:
    model, foreign = network(), nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = torch.optim.SGD(
        [{"params": [foreign]}, {"params": model.parameters(), "lr": 0.5}], lr=1.0, momentum=0.9
    )
    scheduler = lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    calls = []
    handle = optimizer.register_step_post_hook(lambda *_: calls.append(1))
    train(model, optimizer, 1)
    scheduler.step()
    small, pairs = small_of(model)
    carry(optimizer, pairs)
    before = [p.detach().clone() for p in small.parameters()]
    train(small, optimizer, 1)
    scheduler.step()
    handle.remove()
    assert len(calls) == 2
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.125]
    assert optimizer.param_groups[0]["params"][0] is foreign
    assert all(not torch.equal(old, new) for old, new in zip(before, small.parameters(), strict=True))
    again = torch.optim.SGD([{"params": [foreign]}, {"params": small.parameters()}], lr=1.0, momentum=0.9)
    again.load_state_dict(optimizer.state_dict())
    assert torch.equal(again.state[small[2].bias]["momentum_buffer"], optimizer.state[small[2].bias]["momentum_buffer"])


@pytest.mark.parametrize("name", [name for name in EVERY if name != "Muon"])
def test_an_added_bias_stands_behind_its_weight_and_learns(name: str) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3, bias=False)).double()
    optimizer = EVERY[name](model.named_parameters())
    train(model, optimizer, 2)
    small = network(8)
    small.load_state_dict(model.state_dict(), strict=False)
    small[2].bias.data.zero_()
    after = dict(small.named_parameters())
    pairs = [Carried(old, after[name], {}) for name, old in model.named_parameters()]
    carry(optimizer, pairs, [Added(small[2].bias, small[2].weight, "2.bias")])
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in small.parameters()]
    assert optimizer.param_groups[0]["param_names"] == list(after)
    train(small, optimizer, 2)
    assert bool((small[2].bias != 0).all())


def test_what_is_beside_nothing_trained_is_not_trained() -> None:
    model = network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    small, pairs = small_of(model)
    carry(optimizer, pairs, [Added(small[2].bias, small[2].weight)])
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in small[0].parameters()]


def test_a_parameter_may_become_several_and_ties_are_said_twice() -> None:
    old = nn.Parameter(torch.randn(6, 2))
    optimizer = torch.optim.SGD([old], lr=0.1, momentum=0.9)
    old.grad = torch.randn(6, 2)
    optimizer.step()
    momentum = optimizer.state[old]["momentum_buffer"]
    first, second = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(4, 2))
    halves = [Carried(old, first, {0: torch.arange(2)}), Carried(old, second, {0: torch.arange(2, 6)})]
    carry(optimizer, [*halves, halves[0]])
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(first), id(second)]
    assert torch.equal(optimizer.state[second]["momentum_buffer"], momentum[2:])


def test_memory_format_and_dtype_stay() -> None:
    old = nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last).bfloat16())
    optimizer = torch.optim.Adam([old])
    old.grad = torch.randn_like(old)
    optimizer.step()
    assert optimizer.state[old]["exp_avg"].is_contiguous(memory_format=torch.channels_last)
    new = nn.Parameter(take(old.detach(), {1: torch.tensor([0, 3])}))
    carry(optimizer, [Carried(old, new, {1: torch.tensor([0, 3])})])
    found = optimizer.state[new]["exp_avg"]
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert found.dtype is torch.bfloat16


def test_without_memory_there_is_nothing_to_cut() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    small, pairs = small_of(model)
    carry(optimizer, pairs)
    assert not optimizer.state
    train(small, optimizer, 1)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_what_is_remembered_is_that_of_the_scaled_weight(name: str) -> None:
    """As if the weight had been scaled, and its gradients divided, from the first step on."""
    make = torch.optim.Adagrad if name == "Adagrad" else ELEMENTWISE[name]  # without its start, which nothing scales
    factor = torch.tensor([1.0, 4.0, 4.0], dtype=torch.float64)
    old = nn.Parameter(torch.ones(3).double())
    new, beside = nn.Parameter(old.detach() * factor), nn.Parameter(old.detach() * factor)
    first, second = make([old]), make([beside])
    for group in (*first.param_groups, *second.param_groups):
        group["weight_decay"] = 0.0
    for gradient in torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double():
        old.grad, beside.grad = gradient, gradient / factor
        first.step()
        second.step()
    carry(first, [Carried(old, new, {})], scalings=[(new, Scaling("w", 0, torch.tensor([1, 2]), 4.0))])
    found, expected = first.state[new], second.state[beside]
    assert found.keys() == expected.keys()
    for key in found.keys() - {"ax", "acc_delta"}:  # how far steps went depends on learning rates
        if isinstance(found[key], Tensor):
            torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-12)


def test_a_mean_of_weights_is_scaled_as_they_are() -> None:
    old, new = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.ASGD([old])
    old.grad = torch.ones(3)
    optimizer.step()
    mean = optimizer.state[old]["ax"].clone()
    kept = torch.tensor([0, 2])
    carry(optimizer, [Carried(old, new, {0: kept})], scalings=[(new, Scaling("w", 0, torch.tensor([1]), 2.0, 1.0))])
    torch.testing.assert_close(optimizer.state[new]["ax"], torch.stack([mean[0], (mean[2] + 1) * 2 - 1]))
