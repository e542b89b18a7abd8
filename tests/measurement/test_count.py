import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sparsewood.measurement import Count, count
from sparsewood.measurement.counting import count_nonzero


def test_small_network_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    with torch.no_grad():
        model[0].weight[0] = 0  # 27 zeros
        model[3].bias.zero_()  # 2 zeros
    params = (4 * 27 + 4) + (4 + 4) + (8 + 2)
    buffers = 4 * (4 + 4) + 8  # running mean and variance, and an int64 counter
    assert count(model) == Count(params, params - 29, 108 + 8, 108 + 8 - 27, 4 * params + buffers)


def test_tied_parameters_count_once():
    model = nn.Module()
    model.embedding = nn.Embedding(10, 4)
    model.head = nn.Linear(4, 10, bias=False)
    model.head.weight = model.embedding.weight
    counted = count(model)
    assert (counted.params, counted.bytes) == (40, 160)


def test_two_parameters_on_one_memory_are_stored_once():
    model = nn.Module()
    model.first = nn.Parameter(torch.ones(6))
    model.second = nn.Parameter(model.first.detach().view(2, 3))
    counted = count(model)
    assert (counted.params, counted.bytes) == (12, 24)


def test_flattened_weights_count_each():
    flat = torch.ones(10)
    model = nn.Module()
    model.first, model.second = nn.Parameter(flat[:4]), nn.Parameter(flat[4:])
    assert count(model).bytes == 40


def test_buffers_that_are_not_persistent_are_left_out():
    model = nn.Module()
    model.register_buffer("kept", torch.zeros(3))
    model.register_buffer("scratch", torch.zeros(100), persistent=False)
    model.register_buffer("none", None)
    assert count(model) == Count(0, 0, 0, 0, 12)


def test_empty_parameters_and_half_precision():
    model = nn.ParameterList([torch.zeros(0), torch.ones(3, dtype=torch.bfloat16)])
    assert count(model) == Count(3, 3, 0, 0, 6)


def test_parametrized_weight_counts_what_is_stored():
    model = parametrizations.weight_norm(nn.Linear(3, 2, bias=False))
    assert count(model).params == 2 + 6


@pytest.mark.parametrize(
    ("tensor", "nonzero"),
    [
        (torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-45]), 3),
        (torch.tensor([True, False]), 1),
        (torch.tensor([0j, 1j]), 1),
        (torch.tensor([0.0, 1.0, 2.0]).to(torch.float8_e4m3fn), 2),
        (torch.tensor([0, 1, 2**16 - 1]).to(torch.uint16), 2),
        (torch.tensor([[0, 1], [0, 2**32 - 1]]).to(torch.uint32).T, 2),
        (torch.tensor([0, 1, -(2**63)]).view(torch.uint64), 2),
        (torch.tensor(7).to(torch.uint64), 1),
        (torch.tensor([[0.0, 3.0], [0.0, 0.0]]).to_sparse(), 1),
        (torch.zeros(3, device="meta"), 3),
        (torch.zeros(0), 0),
    ],
)
def test_nonzero_of_every_kind_of_tensor(tensor, nonzero):
    assert count_nonzero(tensor) == nonzero


def test_meta_model():
    assert count(nn.Linear(3, 2, device="meta")) == Count(8, 8, 6, 6, 32)
