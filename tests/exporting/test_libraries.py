"""Networks of other libraries, with outputs and inputs of their own kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.models.examples import example_inputs
from sparsewood.models.sources import load_model
from sparsewood.models.wheels import ensure_torchvision

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.slow
def test_a_shrunk_resnet18_of_torchvision(tmp_path: Path) -> None:
    """Every BatchNorm is in a convolution."""
    ensure_torchvision()
    pytest.importorskip("torchvision")
    torch.default_generator.manual_seed(0)
    shrunk = sw.shrink(load_model("torchvision:resnet18"), torch.zeros(1, 3, 64, 64), sparsity=0.5)
    report = sw.export(shrunk, tmp_path / "net.onnx", torch.randn(2, 3, 64, 64))
    assert report.operators["Conv"] == 20
    assert "BatchNormalization" not in report.operators
    sw.export(shrunk, tmp_path / "net.pt2", torch.randn(1, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_a_language_model_of_transformers(ending: str, tmp_path: Path) -> None:
    """Tokens by keyword, a `ModelOutput` comes back; what it remembers of them is no tensor: the error says so."""
    pytest.importorskip("transformers")
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1}
    model = load_model("transformers:gpt2", task="causal-lm", **sizes)
    inputs = example_inputs(model, "transformers:gpt2", task="causal-lm", **sizes)
    report = sw.export(model, tmp_path / f"net.{ending}", inputs)
    assert report.max_relative_difference is not None
    if ending == "onnx":
        assert [one.name for one in report.outputs] == ["logits"]
        with pytest.raises(SparsewoodError, match="use_cache=False"):
            sw.export(model, tmp_path / "other.onnx", {**inputs, "use_cache": True})
