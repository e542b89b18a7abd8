"""Networks that fix the size of their batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class Function(nn.Module):
    """A network that is a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Buffered(nn.Module):
    """A state of the batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state", torch.ones(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.state


def bounded(x: Tensor) -> Tensor:
    return 2 * x if x.shape[0] > 3 else 3 * x


X = torch.arange(6.0).reshape(2, 3)
FIXED = {
    "a written size": Function(lambda x: x.reshape(2, 3, 1) * 2),
    "a buffer": Buffered(),
    "a condition": Function(bounded),
    "time first": nn.LSTM(3, 4),
}


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
@pytest.mark.parametrize("name", FIXED)
def test_networks_that_fix_their_batch_say_so(name: str, ending: str, tmp_path: Path) -> None:
    """PyTorch exports them with a fixed batch, without a word. They are exported with one when asked to."""
    x = torch.randn(5, 2, 3) if name == "time first" else X
    with pytest.raises(SparsewoodError, match=r"(fixes or bounds|depends on) the size of .*batch.*dynamic_batch=False"):
        sw.export(FIXED[name], tmp_path / f"net.{ending}", x)
    assert list(tmp_path.iterdir()) == []
    report = sw.export(FIXED[name], tmp_path / f"net.{ending}", x, dynamic_batch=False)
    assert not report.dynamic_batch
