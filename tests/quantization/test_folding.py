"""BatchNorm folded before quantisation (001-11): outputs as before to 1e-5, and what stays is said."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.quantization import fold_batchnorm


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """With statistics, scales and shifts as after a training."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            shape = (module.num_features,)
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.copy_(torch.randn(shape, generator=generator))
                module.running_var.copy_(torch.rand(shape, generator=generator) * 3 + 0.1)
            if module.affine:
                module.weight.data.copy_(torch.randn(shape, generator=generator))
                module.bias.data.copy_(torch.randn(shape, generator=generator))
    return model


class Residual(nn.Module):
    """A block with a depthwise convolution, and a sum that reads what BatchNorm returned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.deep, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.up, self.norm3 = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2), nn.BatchNorm2d(4, affine=False)
        self.dropped, self.head, self.norm4 = nn.Dropout(), nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(self.first(x)).relu()
        x = (x + self.norm2(self.deep(x))).relu()
        x = self.norm3(self.up(x))
        return self.norm4(self.dropped(self.head(x.mean((2, 3)))))


def test_outputs_are_as_before() -> None:
    """001-11: folded logits == original (1e-5)."""
    model, x = trained(Residual()), torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before = copy.deepcopy(model.state_dict())
    found = fold_batchnorm(model, x)
    assert dict(found.folded) == {"norm1": "first", "norm2": "deep", "norm3": "up", "norm4": "head"}
    assert not found.kept
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in found.model.modules())
    expected, got = model.eval()(x).detach(), found.model(x).detach()
    assert float((expected - got).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert found.difference <= 1e-5
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    # In float64 nothing is left of the difference.
    assert fold_batchnorm(model.double(), x.double()).difference <= 1e-12


@pytest.mark.parametrize(
    ("convolution", "norm", "shape"),
    [
        (nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), (2, 4, 9)),
        (nn.Conv3d(2, 3, 2, padding_mode="circular", padding=1), nn.BatchNorm3d(3), (2, 2, 4, 4, 4)),
        (nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False), nn.BatchNorm1d(6), (2, 4, 5)),
        (nn.ConvTranspose2d(3, 5, 3, stride=2), nn.BatchNorm2d(5), (2, 3, 5, 5)),
        (nn.Linear(4, 3), nn.BatchNorm1d(3), (7, 4)),
    ],
)
def test_every_kind_of_layer(convolution: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    model = trained(nn.Sequential(convolution, norm), 3)
    found = fold_batchnorm(model, torch.randn(shape, generator=torch.Generator().manual_seed(2)))
    assert found.folded == {"1": "0"}
    assert 0 <= found.difference <= 1e-5


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.twice = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(6))
        self.tied = nn.Conv2d(2, 2, 1)
        self.tied.weight = self.conv.weight
        self.wide, self.batch = nn.Linear(4, 2), nn.BatchNorm2d(2, track_running_stats=False)
        self.last, self.changed = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.norms[0](self.twice(self.twice(x)))  # runs twice
        x = self.norms[1](self.tied(x))  # its weight is another's, too
        y = self.last(x)
        x = self.norms[2](y) + self.batch(x)
        x = self.norms[3](self.changed(x).relu_())  # another tensor by then, though the same object
        return self.norms[4](self.wide(x)), y  # y is read outside


def test_what_cannot_be_folded_is_said() -> None:
    """Never a silent no-op, and never a wrong network (001-11, defect 15)."""
    found = fold_batchnorm(trained(Shared()), torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(5)))
    assert not found.folded
    assert found.difference == 0.0
    words = {
        "norms.0": "runs more than once",
        "norms.1": "shared or computed",
        "norms.2": "is read elsewhere",
        "norms.3": "is read elsewhere",
        "norms.4": "on 4 axes",
        "norms.5": "does not run",
        "batch": "does not follow a convolution|no running statistics",
    }
    assert found.kept.keys() == words.keys()
    assert all(re.search(words[name], reason) for name, reason in found.kept.items()), found.kept


def test_layers_with_a_forward_of_their_own_stay() -> None:
    """A subclass may do more than PyTorch's layer: an activation in it would be lost, a weight computed anew."""

    class Activated(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input).relu()

    class Standardised(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return self._conv_forward(input, self.weight / self.weight.std(), self.bias)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), Activated(2), Standardised(2, 2, 1), nn.BatchNorm2d(2)).eval()
    x = torch.randn(4, 1, 5, 5)
    found = fold_batchnorm(model, x)
    assert found.folded == {}
    assert found.kept == {
        "1": "Activated has a forward of its own",
        "3": "'2' before it, Standardised, has a forward of its own",
    }
    assert torch.equal(found.model(x), model(x))


def test_a_network_without_batchnorm_is_copied() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    found = fold_batchnorm(model, torch.ones(1, 2))
    assert not found.folded
    assert not found.kept
    assert found.model is not model
    assert not found.model.training
    assert model.training


def test_outputs_that_are_not_finite_are_no_proof() -> None:
    model = trained(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    with pytest.raises(SparsewoodError, match="fold_batchnorm"):
        fold_batchnorm(model, torch.full((2, 2), float("nan")))
