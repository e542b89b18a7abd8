"""Inputs that a model can be called with, from what its source says it takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparsewood import inputs, models
from sparsewood.errors import SparsewoodError
from sparsewood.models import load_model
from sparsewood.models.examples import example_inputs, inputs_of_shapes
from sparsewood.models.wheels import ensure_torchvision

ensure_torchvision()
pytest.importorskip("timm")
pytest.importorskip("transformers")

REFERENCE: dict[str, dict[str, Any]] = {
    "alexnet_imagenet": {"size": 163},
    "convnet": {"spec": [["C", 4, 3], ["GA"]], "channels": 2},
    "densenet_cifar": {"depth": 10, "growth": 4},
    "mlp": {"inputs": 12},
    "preact_resnet": {"depth": 11},
    "vgg": {"depth": 11},
    "wide_resnet": {"depth": 10, "width": 1},
    "resnet18": {"channels": 1},
}


@pytest.mark.parametrize("name", models.__all__)
def test_reference_models(name: str) -> None:
    parameters = REFERENCE.get(name, {})
    model = load_model(name, **parameters).eval()
    example = example_inputs(model, name, **parameters)
    with torch.no_grad():
        assert len(inputs.call(model, example)) == 1


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
LIBRARIES: list[tuple[str, dict[str, Any], Any]] = [
    ("torchvision:squeezenet1_1", {}, (1, 3, 224, 224)),
    ("timm:resnet10t", {"channels": 1}, (1, 1, 176, 176)),
    ("timm:vit_tiny_patch16_224", {"img_size": 32, "depth": 1}, (1, 3, 32, 32)),
    ("transformers:vit", SMALL | {"image_size": 8, "patch_size": 4}, {"pixel_values": (1, 3, 8, 8)}),
    ("transformers:bert", SMALL | {"task": "text-classification"}, {"input_ids": (1, 16)}),
    ("transformers:gpt2", {"n_layer": 1, "n_embd": 8, "n_head": 2, "task": "causal-lm"}, {"input_ids": (1, 16)}),
]


@pytest.mark.parametrize(("name", "parameters", "expected"), LIBRARIES)
def test_models_of_libraries(name: str, parameters: dict[str, Any], expected: Any) -> None:
    model = load_model(name, **parameters).eval()
    example = example_inputs(model, name, **parameters)
    if isinstance(expected, dict):
        cache = example.pop("use_cache", None)
        assert cache in (None, False)
        assert (cache is False) == ("gpt2" in name)
        assert {key: tuple(value.shape) for key, value in example.items()} == expected
    else:
        assert tuple(example.shape) == expected
    with torch.no_grad():
        inputs.call(model, example)


TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
TEXT |= {"eos_token_id": 39, "bos_token_id": 38, "pad_token_id": 0}
OTHERS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("T5", {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}, {"input_ids", "decoder_input_ids"}),
    (
        "CLIP",
        {"text_config": TEXT, "vision_config": SMALL | {"image_size": 8, "patch_size": 4}},
        {"input_ids", "pixel_values"},
    ),
    (
        "Whisper",
        {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_mel_bins": 8, "max_source_positions": 20}
        | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
        {"input_features", "decoder_input_ids"},
    ),
]


@pytest.mark.parametrize(("kind", "settings", "names"), OTHERS)
def test_text_with_images_sound_and_decoders(kind: str, settings: dict[str, Any], names: set[str]) -> None:
    import transformers

    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings)).eval()
    example = example_inputs(model)
    assert example.keys() - {"use_cache"} == names
    with torch.no_grad():
        inputs.call(model, example)


def test_text_ends_and_repeats_nothing() -> None:
    model = load_model(
        "transformers:gpt2", n_layer=1, n_embd=8, n_head=2, vocab_size=30, eos_token_id=7, task="causal-lm"
    )
    ids = example_inputs(model)["input_ids"][0].tolist()
    assert ids[-1] == 7
    assert 7 not in ids[:-1]
    assert max(ids) < 30


def test_what_a_model_or_its_function_carries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import torch\nfrom torch import nn\n"
        "def made():\n    return nn.Linear(4, 2)\n"
        "made.example_inputs = lambda: torch.ones(3, 4)\n"
        "def bare():\n    return nn.Linear(4, 2)\n"
    )
    (tmp_path / "carrying_models.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        name = "carrying_models:made"
        assert example_inputs(load_model(name), name).shape == (3, 4)
        model = load_model("carrying_models:bare")
        with pytest.raises(
            SparsewoodError, match=r"Nothing says what inputs 'carrying_models:bare' takes.*--input-shape"
        ):
            example_inputs(model, "carrying_models:bare")
        model.example_input_array = (torch.ones(2, 4),)  # pyright: ignore
        assert example_inputs(model, "carrying_models:bare")[0].shape == (2, 4)
    finally:
        sys.modules.pop("carrying_models", None)


def test_shapes() -> None:
    half = nn.Linear(4, 2).half()
    assert inputs_of_shapes(half, ["1,4"]).dtype == torch.float16
    first, second = inputs_of_shapes(half, ["2x3", "2:int64"])
    assert (first.shape, second.dtype) == ((2, 3), torch.int64)
    gpt = load_model("transformers:gpt2", n_layer=1, n_embd=8, n_head=2, task="causal-lm")
    assert inputs_of_shapes(gpt, ["2,5"])["input_ids"].shape == (2, 5)


@pytest.mark.parametrize("text", ["", "1,a", "0,3", "1,3:float", "1,3:nn", ":int64"])
def test_shapes_that_are_none(text: str) -> None:
    if text == "1,3:float":
        assert inputs_of_shapes(nn.Linear(3, 1), [text]).shape == (1, 3)
        return
    with pytest.raises(SparsewoodError, match="A shape must be whole numbers >= 1"):
        inputs_of_shapes(nn.Linear(3, 1), [text])


def test_the_values_are_the_same_every_time() -> None:
    model = load_model("small_conv")
    before = torch.random.get_rng_state()
    assert torch.equal(example_inputs(model, "small_conv"), example_inputs(model, "small_conv"))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert", "BertForMaskedLM"),
        ("gpt2", "GPT2LMHeadModel"),
        ("t5", "T5ForConditionalGeneration"),
        ("whisper", "WhisperForConditionalGeneration"),
        ("clip", "CLIPModel"),
        ("vit", "ViTForImageClassification"),
        ("bart", "BartForConditionalGeneration"),
        ("wav2vec2", "Wav2Vec2ForCTC"),
        ("dinov2_with_registers", "Dinov2WithRegistersForImageClassification"),
    ],
)
def test_any_task_is_a_head_that_uses_all_of_the_network(name: str, expected: str) -> None:
    with torch.device("meta"):
        assert type(load_model(f"transformers:{name}", task="any")).__name__ == expected


def test_no_head() -> None:
    with torch.device("meta"):
        assert type(load_model("transformers:bert", task="none")).__name__ == "BertModel"
