"""A network that is run to see what it does is as it was afterwards, whatever its forward writes to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.running import always_alike
from sparsewood.state import capture


class Net(nn.Module):
    """Three layers; `before` is what the forward does first."""

    def __init__(self, before: Callable[[Any], object], **held: Any) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.before = before
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        self.before(self)
        return self.last(self.second(self.first(x).relu()).relu())


def halve(net: Any) -> None:
    with torch.no_grad():
        net.second.weight.mul_(0.5)


def halve_data(net: Any) -> None:
    net.second.weight.data.mul_(0.5)


def put_data(net: Any) -> None:
    net.second.weight.data = net.second.weight * 0.5


def put_parameter(net: Any) -> None:
    net.second.weight = nn.Parameter(net.second.weight.detach() * 0.5)


@pytest.mark.parametrize("before", [halve, halve_data, put_data, put_parameter])
def test_weights_that_a_forward_writes_to_come_back(before: Callable[[Any], object]) -> None:
    net, x = Net(before), torch.randn(5, 4)
    parameters, values = list(net.parameters()), copy.deepcopy(net.state_dict())
    places = [parameter.data_ptr() for parameter in parameters]
    with always_alike(net, 0):
        first = net(x)
        assert not torch.equal(net.second.weight, values["second.weight"])
    with always_alike(net, 0):
        assert torch.equal(net(x), first)
    assert all(one is other for one, other in zip(net.parameters(), parameters, strict=True))
    assert [parameter.data_ptr() for parameter in parameters] == places
    assert all(torch.equal(value, values[name]) for name, value in net.state_dict().items())


def test_a_network_that_halves_a_weight_shrinks() -> None:
    net, x = Net(halve), torch.randn(5, 4)
    values = copy.deepcopy(net.state_dict())
    shrunk = sw.shrink(net, x, sparsity=0.5)
    assert shrunk.report.exact
    assert sum(shrunk.model.get_parameter("second.weight").shape) == 8
    assert all(torch.equal(value, values[name]) for name, value in net.state_dict().items())


def test_an_embedding_with_a_largest_norm_shrinks() -> None:
    net = nn.Sequential(nn.Embedding(10, 8, max_norm=0.5), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    values = copy.deepcopy(net.state_dict())
    x = torch.arange(10).reshape(2, 5)
    shrunk = sw.shrink(net, x, sparsity=0.5)
    assert shrunk.report.exact
    table, weight = shrunk.model.get_parameter("0.weight"), shrunk.model.get_parameter("1.weight")
    assert sum(weight.shape) == 8
    assert table.shape == (10, weight.shape[1])
    assert all(torch.equal(value, values[name]) for name, value in net.state_dict().items())
    assert net[0](x).norm(dim=-1).max() <= 0.5 + 1e-6  # it still does so where it is used


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
def test_networks_with_sparse_buffers(layout: torch.layout) -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("adjacency", torch.eye(6).roll(1, 0).to_sparse(layout=layout))
            self.hidden, self.out = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.hidden(torch.sparse.mm(self.adjacency, x))))

    net, x = Graph(), torch.randn(6, 4)
    shrunk = sw.shrink(net, x, 0.5)
    assert shrunk.report.exact
    assert shrunk.report.units == {"hidden": (4, 8)}
    assert shrunk.model.adjacency.layout == net.adjacency.layout == layout
    with pytest.raises(SparsewoodError, match=r"adjacency.*only dense tensors can be saved"):
        capture(net)


def test_networks_that_differentiate_in_their_forward() -> None:
    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.out = nn.Linear(4, 8), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.requires_grad_()
                energy = self.out(torch.tanh(self.hidden(x)))
                return torch.autograd.grad(energy.sum(), x, create_graph=True)[0]

    net, x = Forces(), torch.randn(6, 4)
    means = sw.shrink(net, x, 0.5, bias_propagation=True, data=[x])
    assert means.report.units == {"hidden": (4, 8)}
    gone = [i for i in range(8) if i not in means.plan.kept["hidden.weight"][0].tolist()]
    with torch.no_grad():
        mean = torch.tanh(net.hidden(x)).mean(0)
    torch.testing.assert_close(means.model.out.bias, net.out.bias + net.out.weight[:, gone] @ mean[gone])
