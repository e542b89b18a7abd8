"""Small networks that the tests of shrinking share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood.models.wheels import ensure_torchvision


class ConvNet(nn.Module):
    """A stem, a shortcut around a depthwise bottleneck, and a head: groups `stem` (8 units) and `expand` (12)."""

    def __init__(self, width: int = 8, hidden: int = 12) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, hidden, 1)
        self.depthwise, self.middle = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, width, 1)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.project(F.relu(self.middle(self.depthwise(self.expand(x)))))
        return self.head(x.mean((2, 3)))


class Transformer(nn.Module):
    """One layer before a classifier: a stream of 16, 4 heads, 24 hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        normed = self.norm(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x.mean(1))


def enliven(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random scales, shifts and statistics, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                for tensor in [*module.parameters(), *module.buffers()]:
                    if tensor.is_floating_point():
                        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def conv_net() -> tuple[nn.Module, Tensor]:
    torch.default_generator.manual_seed(0)
    return enliven(ConvNet()).eval(), torch.randn(4, 3, 8, 8)


def transformer() -> tuple[nn.Module, Tensor]:
    torch.default_generator.manual_seed(0)
    return enliven(Transformer()).eval(), torch.randint(0, 11, (3, 6))


def hugging_face(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A tiny model of transformers with random weights."""
    ensure_torchvision()
    library: Any = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
    }
    torch.default_generator.manual_seed(0)
    if name == "llama":
        config = library.LlamaConfig(**sizes, num_key_value_heads=2, use_cache=False)
        model = library.LlamaForCausalLM(config)
    else:
        model = library.BertModel(library.BertConfig(**sizes))
    return model.eval(), {"input_ids": torch.randint(0, 32, (2, 6))}


@pytest.fixture
def conv() -> tuple[nn.Module, Tensor]:
    return conv_net()


@pytest.fixture(name="transformer")
def transformer_fixture() -> tuple[nn.Module, Tensor]:
    return transformer()


@pytest.fixture(params=["conv", "transformer", "bert", "llama"])
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, Any]:
    """A network in eval mode and inputs for it."""
    own = {"conv": conv_net, "transformer": transformer}
    return own[request.param]() if request.param in own else hugging_face(request.param)
