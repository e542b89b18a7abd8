"""Models of transformers: logits for a plain call, ModelOutput for keywords, tasks, checkpoints on disk."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.models import load_model
from sparsewood.models.wheels import ensure_torchvision

VIT: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VIT |= {"image_size": 8, "patch_size": 4}


@pytest.fixture(autouse=True)
def transformers() -> Any:
    ensure_torchvision()
    return pytest.importorskip("transformers")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_parameters_that_a_library_refuses() -> None:
    with pytest.raises(SparsewoodError, match=r"'transformers:vit' could not be built .*'hidden_size' expected int"):
        load_model("transformers:vit", hidden_size="wide")


@pytest.fixture
def vit() -> nn.Module:
    return load_model("transformers:vit", classes=3, generator=seeded(0), **VIT).eval()


def test_transformers_answer_as_documented_to_keywords(vit: nn.Module) -> None:
    """Logits for a loop that calls `model(images)`; a ModelOutput with the loss for one that gives keywords."""
    images, labels = torch.randn(2, 3, 8, 8), torch.tensor([0, 2])
    full = vit(pixel_values=images, labels=labels)
    torch.testing.assert_close(vit(images), full.logits, rtol=0, atol=0)
    torch.testing.assert_close(nn.functional.cross_entropy(vit(images), labels), full.loss)


def test_transformers_keep_their_names(transformers: Any, vit: nn.Module) -> None:
    plain = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=3, **VIT))
    assert type(vit) is type(plain)
    assert vit.state_dict().keys() == plain.state_dict().keys()


def test_transformers_can_be_copied(vit: nn.Module) -> None:
    images = torch.randn(1, 3, 8, 8)
    for other in (copy.deepcopy(vit), pickle.loads(pickle.dumps(vit))):
        assert torch.equal(other(images), vit(images))


def test_other_tasks() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    tokens = torch.tensor([[1, 2, 3]])
    bert = load_model("transformers:bert", task="text-classification", classes=4, vocab_size=20, **sizes)
    assert bert(tokens).shape == (1, 4)
    gpt = load_model("transformers:gpt2", task="causal-lm", vocab_size=20, n_embd=8, n_layer=1, n_head=2)
    assert gpt(tokens).shape == (1, 3, 20)
    message = "no model 'transformers:bert' for the task 'image-classification'. .*: text-classification, causal-lm"
    with pytest.raises(SparsewoodError, match=message):
        load_model("transformers:bert")
    with pytest.raises(SparsewoodError, match=r"'task' .* must be one of 'image-classification', .* Got 'asr'"):
        load_model("transformers:vit", task="asr")


def test_a_checkpoint_of_transformers(tmp_path: Path, vit: nn.Module) -> None:
    vit.save_pretrained(tmp_path / "vit")  # pyright: ignore
    again = load_model("transformers:vit", pretrained=str(tmp_path / "vit"))
    assert same(again, vit)
    assert again.training
    head = load_model("transformers:vit", pretrained=str(tmp_path / "vit"), classes=5, generator=seeded(2))
    assert head(torch.zeros(1, 3, 8, 8)).shape == (1, 5)
    with pytest.raises(SparsewoodError, match=r"'pretrained' is the name of a checkpoint, .* Got True"):
        load_model("transformers:vit", pretrained=True)
    with pytest.raises(SparsewoodError, match="pretrained weights of 'transformers:vit' could not be loaded"):
        load_model("transformers:vit", pretrained=str(tmp_path / "absent"))
