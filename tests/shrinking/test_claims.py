"""What must not be called exact: networks made to deceive the proof."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.shrinking import proving

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


class Hidden(nn.Module):
    """Two layers; `forward` is made by the tests."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(6, 8, bias=bias), nn.Linear(8, 4, bias=bias)


class Closed(Hidden):
    def __init__(self) -> None:
        super().__init__()
        self.run = lambda x: self.last(self.first(x).relu())

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x.float())


def test_a_forward_that_reaches_the_original_is_refused() -> None:
    with pytest.raises(SparsewoodError, match="do not depend on the weights that were cut"):
        sw.shrink(Closed(), X)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    forward = model.forward
    model.forward = lambda x: forward(x) * 2  # type: ignore[method-assign]
    with pytest.raises(SparsewoodError, match="do not depend on the weights that were cut"):
        sw.shrink(model, X)


class Padded(Hidden):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.last(self.first(x).sigmoid() * mask[..., None])


@pytest.mark.parametrize("mask", [torch.ones(2, 5), torch.ones(2, 5, dtype=torch.bool)], ids=["float", "bool"])
def test_a_constant_on_the_example_alone_is_none(mask: Tensor) -> None:
    """A unit of zeros gives 0.5 behind the sigmoid, and 0 where the mask is 0, which the example never shows."""
    model = Padded()
    with torch.no_grad():
        model.first.weight[:4] = 0
        model.first.bias[:4] = 0
    x, holes = torch.randn(2, 5, 6), torch.tensor([[1, 1, 0, 0, 0]]).expand(2, 5).to(mask.dtype)
    by_masks = sw.shrink(model, (x, mask), masks=_mask(6, 7))
    assert torch.allclose(by_masks.model(x, holes), _masked(model, 6, 7)(x, holes), atol=1e-6)
    shrunk = sw.shrink(model, (x, mask), 0.5)
    silenced = sw.expand(shrunk.model, shrunk.plan, Padded())
    assert shrunk.report.exact
    assert torch.allclose(shrunk.model(x, holes), silenced(x, holes), atol=1e-6)


def _mask(*rows: int) -> dict[str, Tensor]:
    mask = torch.ones(8, 6, dtype=torch.bool)
    mask[list(rows)] = False
    return {"first.weight": mask}


def _masked(model: nn.Module, *rows: int) -> nn.Module:
    copied = Padded()
    copied.load_state_dict(model.state_dict())
    sw.apply_masks(copied, _mask(*rows))
    return copied


def test_a_constant_behind_zero_padding_is_uneven_at_any_size() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 3, 3, padding=1)).eval()
    masks = {"0.weight": torch.tensor([True, True, False, False]).view(4, 1, 1, 1).expand(4, 2, 1, 1).clone()}
    small = sw.shrink(model, torch.randn(1, 2, 1, 1), masks=masks).model
    sw.apply_masks(model, masks)
    x = torch.randn(2, 2, 11, 9)
    assert torch.allclose(small(x), model(x), atol=1e-6)


class Centred(Hidden):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.last(hidden - hidden.mean(1, keepdim=True) if self.training else hidden)


def test_what_is_done_in_training_only_is_compared_too() -> None:
    report = sw.shrink(Centred().eval(), X).report
    assert not report.exact
    assert report.inexact == {"first": ("mean over units",)}
    assert any("train mode" in condition for condition in report.conditions)


class Tiny(Hidden):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return (self.last(hidden) + sum(1 for _ in range(hidden.shape[1]))) * 1e-16


def test_differences_of_small_outputs_count() -> None:
    with pytest.raises(SparsewoodError, match="differs from the masked one"):
        sw.shrink(Tiny(), X)


def test_what_is_not_compared_says_what_it_knows() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    for report in (sw.shrink(model, X, verify=False).report, sw.preview(model, X)):
        assert not report.exact
        assert report.inexact == {"0": ("normalised over units",)}
        assert "not verified" in str(report)


def test_the_network_as_it_is_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """If what is folded in float64 is right, but what was folded into the network is not, that shows."""
    model = nn.Sequential(nn.Linear(6, 8), nn.RMSNorm(8), nn.Linear(8, 4))
    report = sw.shrink(model, X).report
    assert report.exact
    assert report.rounding is not None
    assert report.rounding < 1e-6
    monkeypatch.setattr(proving, "apply_scalings", lambda *_: None)
    with pytest.raises(SparsewoodError, match="differs from the masked one"):
        sw.shrink(model, X)


class Cached(Hidden):
    """Returns what it is asked for, and keeps the rest in an object, as language models do."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        hidden = self.first(x).relu()
        return {"logits": self.last(hidden), "cache": Kept(hidden)}


class Kept:
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def test_caches_are_no_outputs() -> None:
    report = sw.shrink(Cached(), X).report
    assert report.exact
    assert report.removed == 4


def test_a_network_shrunk_in_inference_mode_trains() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.inference_mode():
        small = sw.shrink(model, X).model
    small(X).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_biases_that_were_made_count() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40, bias=False), nn.ReLU(), nn.Linear(40, 40, bias=False))
    shrunk = sw.shrink(model, torch.randn(8, 40), budget=sw.Params(0.5), bias_propagation=True)
    real = sum(parameter.numel() for parameter in shrunk.model.parameters())
    assert shrunk.plan.added == ("2.bias",)
    assert shrunk.report.after.params == real
    assert shrunk.report.budget is not None
    assert shrunk.report.budget.reached == real
