"""tune_centroids: the values of shared weights are trained, and clusters stay clusters."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import sparsewood as sw
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.quantization import PerChannel, Sharing, share_weights, tune_centroids

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.003, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.001, momentum=0.9),
    "foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> list[float]:
    generator, losses = torch.Generator().manual_seed(1), list[float]()
    x = torch.randn(64, 5, generator=generator, dtype=torch.float64).to(next(model.parameters()).dtype)
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 1).long()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def clusters_hold(weight: Tensor, sharing: Sharing, name: str) -> bool:
    """Whether all entries of every cluster are equal, bit for bit, and zeros are +0.0."""
    one = sharing.weights[name]
    cells = one.cells()
    values = torch.full((one.codebook.numel(),), math.nan, dtype=weight.dtype)
    values[cells.long()] = weight.detach().flatten()
    pinned = weight[one.indices == 0] if one.zeros else weight.new_zeros(1)
    return torch.equal(values[cells.long()], weight.flatten()) and not pinned.any() and not torch.signbit(pinned).any()


def test_one_step_of_sgd_by_hand() -> None:
    """Han et al. 2016: gradients are added up over a cluster, and its value takes the step."""
    layer = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    layer.weight.data = torch.tensor([[1.0, 1.2, 0.0, -2.0]], dtype=torch.float64)
    sharing = share_weights(layer, clusters=2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.5)
    with tune_centroids(layer, sharing, optimizer) as keeper:
        layer(torch.tensor([[1.0, 3.0, 7.0, -4.0]], dtype=torch.float64)).backward()
        optimizer.step()
    positive, negative = 1.1 - 0.1 * (1 + 3 + 0.5 * 1.1), -2 - 0.1 * (-4 - 0.5 * 2)
    assert layer.weight.tolist()[0] == pytest.approx([positive, positive, 0.0, negative])
    assert layer.weight[0, 0] == layer.weight[0, 1]
    assert layer.weight[0, 2] == 0
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist()[0] == pytest.approx([4.0, 4.0, 0.0, -4.0])
    assert keeper.codebooks["weight"].tolist() == pytest.approx([0.0, negative, positive])


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_steps_are_those_of_a_network_made_of_its_values(make: Callable[..., Optimizer]) -> None:
    """The same training of a network whose parameters are the codebooks, gathered in the forward, by autograd."""
    ours = net().double()
    sharing = share_weights(ours, clusters=4, include=nn.Linear)
    one, two = sharing.weights["0.weight"], sharing.weights["2.weight"]

    class OfValues(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.books = nn.ParameterList([one.codebook.clone(), two.codebook.clone()])
            self.biases = nn.ParameterList([ours[0].bias.detach().clone(), ours[2].bias.detach().clone()])

        def forward(self, x: Tensor) -> Tensor:
            hidden = nn.functional.linear(x, one.weight(self.books[0]), self.biases[0])
            return nn.functional.linear(hidden.tanh(), two.weight(self.books[1]), self.biases[1])

    theirs = OfValues()
    optimizer = make(ours.parameters())
    with tune_centroids(ours, sharing, optimizer) as keeper:
        losses = train(ours, optimizer, 10)
        codebooks = keeper.codebooks
    assert losses == pytest.approx(train(theirs, make(theirs.parameters()), 10), rel=1e-9)
    assert torch.allclose(codebooks["0.weight"], theirs.books[0], rtol=1e-9, atol=1e-12)
    assert torch.allclose(ours[2].bias, theirs.biases[1], rtol=1e-9, atol=1e-12)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clusters_and_zeros_hold_after_twenty_steps(dtype: torch.dtype, per_channel: bool) -> None:
    model = net().to(dtype)
    masks = sw.prune(model, sw.Magnitude(), 0.6, protect_classifier=False)
    plain = {"per": PerChannel()} if per_channel else {}
    sharing = share_weights(model, clusters=3, masks=masks, **plain)
    before = {name: model.get_parameter(name).detach().clone() for name in sharing.weights}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.01)
    with tune_centroids(model, sharing, optimizer) as keeper:
        for _ in range(20):
            train(model, optimizer, 1)
            for name in sharing.weights:
                assert clusters_hold(model.get_parameter(name).detach(), sharing, name)
        assert sw.masks.not_held(model, masks) is None
        for name, book in keeper.codebooks.items():
            assert torch.equal(sharing.weights[name].weight(book), model.get_parameter(name))
    for name, weight in before.items():
        assert not torch.equal(model.get_parameter(name), weight)
    if not per_channel:
        again = share_weights(model, clusters=3, masks=masks)
        assert again.relative_error == 0


def test_memory_of_steps_before_is_averaged() -> None:
    """Weights of a cluster whose momenta differ get the mean of their steps."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 3.0]])
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.5)
    layer(torch.tensor([[2.0, 4.0]])).sum().backward()
    optimizer.step()
    assert layer.weight.tolist() == [[-1.0, -1.0]]
    layer.weight.data = torch.tensor([[1.0, 3.0]])
    with tune_centroids(layer, share_weights(layer, clusters=1), optimizer):
        optimizer.zero_grad()
        layer(torch.tensor([[1.0, 0.0]])).sum().backward()
        optimizer.step()
    assert layer.weight.tolist() == [[2.0 - (0.5 * 3.0 + 1.0)] * 2]


def test_what_was_changed_in_between_is_gathered_at_once() -> None:
    model = net()
    sharing = share_weights(model, clusters=2)
    model[0].weight.data += torch.randn(16, 5) * 0.1
    expected = model[0].weight.detach()[sharing.weights["0.weight"].indices == 1].mean()
    keeper = tune_centroids(model, sharing, torch.optim.SGD(model.parameters(), lr=0.1))
    assert clusters_hold(model[0].weight.detach(), sharing, "0.weight")
    assert keeper.codebooks["0.weight"][1] == pytest.approx(float(expected), rel=1e-5)


def test_hooks_are_gone_at_the_end_and_weights_are_free() -> None:
    model = net()
    sharing = share_weights(model, clusters=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ZeroDivisionError), tune_centroids(model, sharing, optimizer):
        raise ZeroDivisionError
    keeper = tune_centroids(model, sharing, optimizer)
    assert "0.weight" in repr(keeper)
    keeper.remove()
    keeper.remove()
    assert "removed" in repr(keeper)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    train(model, optimizer, 1)
    assert not clusters_hold(model[0].weight.detach(), sharing, "0.weight")


def test_only_what_the_optimizer_updates_is_kept_by_it() -> None:
    model = net()
    sharing = share_weights(model, clusters=2)
    first, second = torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.SGD(model[2].parameters(), lr=0.1)
    with tune_centroids(model, sharing, first) as one, tune_centroids(model, sharing, second) as two:
        assert list(one.codebooks) == ["0.weight"]
        assert list(two.codebooks) == ["2.weight"]
        model(torch.ones(2, 5)).sum().backward()
        gradient = model[0].weight.grad.clone()
        second.step()
        assert torch.equal(model[0].weight.grad, gradient)
        first.step()
        cells = sharing.weights["0.weight"].indices.long()
        sums = torch.zeros(2).index_add_(0, cells.flatten(), gradient.flatten())
        assert torch.allclose(model[0].weight.grad, sums[cells])


def test_with_masks_enforced_beside_it() -> None:
    model = net()
    masks = sw.prune(model, sw.Magnitude(), 0.5)
    sharing = share_weights(model, clusters=4, masks=masks)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with sw.enforce(model, masks, optimizer), tune_centroids(model, sharing, optimizer):
        train(model, optimizer, 5)
    assert sw.masks.not_held(model, masks) is None
    assert clusters_hold(model[0].weight.detach(), sharing, "0.weight")


# ---------------------------------------------------------------- errors


def test_what_cannot_be_tuned_is_refused() -> None:
    model, other = net(), nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    sharing = share_weights(model, clusters=2)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SparsewoodError, match="updates none of the 2"):
        tune_centroids(model, sharing, torch.optim.SGD(other.parameters(), lr=0.1))
    with pytest.raises(SparsewoodError, match=r"has shape \(4, 5\); it was \(16, 5\)"):
        tune_centroids(other, sharing, torch.optim.SGD(other.parameters(), lr=0.1))
    with pytest.raises(UnknownName, match=r"0\.weight"):
        tune_centroids(model[0], sharing, sgd)
    with pytest.raises(SparsewoodError, match="share_weights returned"):
        tune_centroids(model, {"0.weight": 3}, sgd)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SparsewoodError, match="steps once"):
        tune_centroids(model, sharing, torch.optim.LBFGS(model.parameters()))
    with pytest.raises(SparsewoodError, match="steps once"):
        tune_centroids(model, sharing, None)  # pyright: ignore[reportArgumentType]
    assert not sgd._optimizer_step_pre_hooks


def test_a_step_with_a_closure_and_sparse_gradients_are_refused() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tune_centroids(model, share_weights(model, clusters=2), optimizer):
        for closure in ((lambda: 0.0,), ()):
            with pytest.raises(SparsewoodError, match="closure"):
                optimizer.step(*closure) if closure else optimizer.step(closure=lambda: 0.0)
    table = nn.Embedding(20, 3, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    with tune_centroids(table, share_weights(table, clusters=2, include="weight"), optimizer):
        table(torch.tensor([1, 2])).sum().backward()
        with pytest.raises(SparsewoodError, match="sparse=True"):
            optimizer.step()


def test_a_second_keeper_of_a_parameter_is_refused_until_the_first_is_removed() -> None:
    """Both would add the gradients up: a cluster of n would take a step n times too large."""
    model = net()
    sharing = share_weights(model, clusters=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    again = share_weights(model, clusters={"2": 2})
    first = tune_centroids(model, sharing, optimizer)
    with pytest.raises(SparsewoodError, match=r"'2\.weight' .* already has a keeper"):
        tune_centroids(model, again, optimizer)
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    first.remove()
    with tune_centroids(model, again, optimizer) as second:
        assert list(second.codebooks) == ["2.weight"]
        with tune_centroids(model, share_weights(model, clusters={"0": 2}), optimizer) as third:
            assert list(third.codebooks) == ["0.weight"]
        with pytest.raises(SparsewoodError, match="already has a keeper"):
            tune_centroids(model, again, optimizer)


def test_a_keeper_that_nothing_holds_is_still_there_and_goes_with_its_optimizer() -> None:
    model = net()
    sharing = share_weights(model, clusters=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tune_centroids(model, sharing, optimizer)
    with pytest.raises(SparsewoodError, match="already has a keeper"):
        tune_centroids(model, sharing, optimizer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tune_centroids(model, sharing, optimizer)


def test_a_sum_that_float16_cannot_hold_is_refused_before_anything_changes() -> None:
    """4 gradients of 30,000 add up to 120,000; the largest number of float16 is 65,504."""
    layer = nn.Linear(4, 1, dtype=torch.float16)
    layer.weight.data = torch.ones(1, 4, dtype=torch.float16)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with tune_centroids(layer, share_weights(layer, clusters=1), optimizer):
        layer.weight.grad = torch.full((1, 4), 16_000.0, dtype=torch.float16)
        optimizer.step()
        assert layer.weight.grad.tolist() == [[64_000.0] * 4]
        weight = layer.weight.detach().clone()
        layer.weight.grad = torch.full((1, 4), 30_000.0, dtype=torch.float16)
        with pytest.raises(SparsewoodError, match=r"'weight' .*float16 can hold"):
            optimizer.step()
        assert torch.equal(layer.weight, weight)
        assert layer.weight.grad.tolist() == [[30_000.0] * 4]


def test_a_gradient_that_is_not_finite_itself_is_the_optimizers_affair() -> None:
    layer = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with tune_centroids(layer, share_weights(layer, clusters=1), optimizer):
        layer.weight.grad = torch.tensor([[math.nan, 1.0]])
        optimizer.step()
    assert layer.weight.isnan().all()
