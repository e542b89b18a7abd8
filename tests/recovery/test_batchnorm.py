"""BatchNorm statistics estimated anew: those of all data together."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.recovery import recalibrate

EXACT = {"rtol": 0.0, "atol": 1e-12}


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, 3),
        nn.BatchNorm2d(3, momentum=None),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.BatchNorm1d(5),
        nn.Dropout(0.5),
    ).double()
    with torch.no_grad():
        for tensor in (*model.parameters(), model[1].running_mean, model[4].running_mean):
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    return model


def samples(count: int = 12) -> Tensor:
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers() if "running" in name}


def test_statistics_are_those_of_the_whole_data() -> None:
    """Layer by layer by hand, each behind the new statistics of those before it."""
    model, x = network(), samples()
    recalibrate(model, list(x.split(5)))
    model.eval()
    for last in (1, 4, 8):
        with torch.no_grad():
            entering = model[:last](x).transpose(0, 1).flatten(1)
        torch.testing.assert_close(model[last].running_mean, entering.mean(1), **EXACT)
        torch.testing.assert_close(model[last].running_var, entering.var(1), **EXACT)


def test_the_first_layer_is_what_train_mode_finds_with_all_data_in_one_batch() -> None:
    model, x = network(), samples()
    manual = copy.deepcopy(model)
    manual[1].reset_running_stats()
    manual[1].momentum = None
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        manual.train()(x)
    recalibrate(model, [x])
    for name, value in manual[1].state_dict().items():
        torch.testing.assert_close(model[1].state_dict()[name], value, **EXACT)


def test_how_the_data_are_cut_does_not_matter() -> None:
    x = samples()
    found = []
    for sizes in ([12], [1] * 12, [5, 4, 3]):
        model = network()
        recalibrate(model, [(part, torch.zeros(len(part))) for part in x.split(sizes)])
        assert int(model[1].num_batches_tracked) == len(sizes)
        found.append(statistics(model))
    for other in found[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, found[0][name], **EXACT)


def test_all_else_stays_as_it_was() -> None:
    model = network()
    model.train()
    model[4].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    modes = [module.training for module in model.modules()]
    parameters = [value.detach().clone() for value in model.parameters()]
    recalibrate(model, [samples()])
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(a, b) for a, b in zip(parameters, model.parameters(), strict=True))
    assert bool((model[0].weight.grad == 1).all())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(value.requires_grad for value in model.parameters())
    before = statistics(model)
    assert recalibrate(model, [samples()]).layers["1"].mean < 1e-9
    for name, value in before.items():
        torch.testing.assert_close(statistics(model)[name], value, **EXACT)


def test_what_changed_is_told() -> None:
    norm = nn.BatchNorm1d(2).double()
    norm.eval()
    x = torch.tensor([[0.0, 1.0], [2.0, 1.0 + math.sqrt(8.0)]], dtype=torch.float64)
    told = recalibrate(nn.Sequential(norm), [x])
    assert list(told.layers) == ["0"]
    old = math.sqrt(1 + norm.eps)
    assert told.layers["0"].mean == pytest.approx((1 + math.sqrt(2)) / old)
    assert told.layers["0"].variance == pytest.approx((4 + norm.eps) / (1 + norm.eps))
    assert "1 BatchNorm layers" in str(told)


def test_a_layer_that_is_called_twice_gets_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1, affine=False)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.norm(x) + self.norm(y)

    model = Twice()
    recalibrate(model, [{"x": torch.tensor([[1.0]]), "y": torch.tensor([[3.0]])}])
    assert model.norm.running_mean.item() == 2.0
    assert model.norm.running_var.item() == 2.0


def test_layers_without_statistics_are_skipped() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
            self.none = nn.BatchNorm1d(2, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.none(self.used(x))

    told = recalibrate(Unused(), [torch.randn(4, 2, generator=torch.Generator().manual_seed(0))])
    assert list(told.layers) == ["used"]
    assert told.skipped == {"unused": "it does not run in eval mode", "none": "it keeps no statistics"}


def test_a_network_without_batchnorm() -> None:
    told = recalibrate(nn.Linear(2, 2), [torch.zeros(1, 2)])
    assert not told.layers
    assert str(told) == "no BatchNorm statistics to estimate (0 layers skipped)"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "The data are empty"),
        (torch.zeros(3, 2, 6, 6), "data must be batches"),
        ([torch.full((2, 2, 6, 6), math.nan, dtype=torch.float64)], "not finite"),
        ([samples(1)], "a variance needs two"),
        ((part for part in [samples()]), "a generator does not allow"),
    ],
)
def test_errors_leave_the_model_as_it_was(data: object, message: str) -> None:
    model = network()
    before = statistics(model)
    with pytest.raises(SparsewoodError, match=message):
        recalibrate(model, data)
    for name, value in before.items():
        assert torch.equal(statistics(model)[name], value)
