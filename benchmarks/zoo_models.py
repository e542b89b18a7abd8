"""The networks of the coverage table: torchvision, timm, transformers, our own, the toys. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.models.wheels import ensure_torchvision
from sparsewood.testing import TOYS

__all__ = ["SMALL", "Entry", "entries"]


@dataclass(frozen=True)
class Entry:
    """A network in the making: `build()` returns it with example inputs."""

    name: str
    build: Callable[[], tuple[nn.Module, Any]]


def _names(text: str) -> list[str]:
    return text.split()


TORCHVISION = _names("""
    alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
    mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x0_5
    squeezenet1_1 swin_t swin_v2_t vgg11 vgg11_bn vit_b_16 wide_resnet50_2
""")
SEGMENTATION = _names("fcn_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large")
VIDEO = _names("r3d_18 r2plus1d_18 s3d swin3d_t mvit_v2_s")
TIMM = _names("""
    bat_resnext26ts beit_base_patch16_224 beitv2_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224
    coat_lite_tiny coat_tiny coatnet_nano_rw_224 convformer_s18 convit_tiny convmixer_768_32 convnext_atto
    convnextv2_atto crossvit_tiny_240 cs3darknet_s cspresnet50 darknet53 davit_tiny deit3_small_patch16_224
    deit_tiny_distilled_patch16_224 deit_tiny_patch16_224 densenet121 dla46_c dm_nfnet_f0 dpn48b eca_halonext26ts
    eca_nfnet_l0 ecaresnet26t edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_lite0
    efficientvim_m1 efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim eva02_tiny_patch14_224 fasternet_t0 fastvit_t8
    fbnetc_100 focalnet_tiny_srf gc_efficientnetv2_rw_t gcvit_xxtiny gernet_s ghostnet_050 ghostnetv2_100
    gmixer_12_224 gmlp_ti16_224 halonet26t haloregnetz_b hardcorenas_a hgnetv2_b0 hiera_tiny_224 hrnet_w18_small
    inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lambda_resnet26t lcnet_035 legacy_senet154
    legacy_seresnet18 legacy_xception levit_128s levit_conv_128s mambaout_femto maxvit_rmlp_pico_rw_256 mixer_s32_224
    mixnet_s mnasnet_small mobilenet_edgetpu_v2_xs mobilenetv1_100 mobilenetv2_035 mobilenetv3_small_050
    mobilenetv4_conv_small mobilenetv4_hybrid_medium mobileone_s0 mobilevit_xxs mobilevitv2_050 mvitv2_tiny
    nasnetalarge nest_tiny nextvit_small nf_regnet_b0 nf_resnet26 pit_ti_224 pnasnet5large poolformer_s12
    poolformerv2_s12 pvt_v2_b0 rdnet_tiny regnetx_002 regnety_002 regnetz_b16 repghostnet_050 repvgg_a0 repvit_m0_9
    res2net50_14w_8s resmlp_12_224 resnest14d resnet18 resnetv2_50 resnext26ts rexnet_100 rexnetr_200 sehalonet33ts
    selecsls42 semnasnet_050 sequencer2d_s shvit_s1 skresnet18 spnasnet_100 starnet_s1 swiftformer_xs
    swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 tf_efficientnetv2_b0 tiny_vit_5m_224
    tinynet_e tnt_s_patch16_224 tresnet_m twins_pcpvt_small twins_svt_small vgg11 visformer_tiny
    vit_relpos_small_patch16_224 vit_small_r26_s32_224 vit_tiny_patch16_224 vitamin_small_224 volo_d1_224 xception41
    xcit_nano_12_p16_224
""")
SMALL = _names("""
    torchvision:resnet18 torchvision:mobilenet_v3_small torchvision:shufflenet_v2_x0_5 torchvision:squeezenet1_1
    timm:convnext_atto timm:vit_tiny_patch16_224 timm:efficientvit_m0 timm:lcnet_035 transformers:gpt2
    transformers:llama transformers:bert own:unet own:lstm own:gru
""")
"""What the tests run: a dozen that are quick to build."""


def entries() -> Iterator[Entry]:
    """All of them, by library."""
    for name in TORCHVISION:
        yield Entry(f"torchvision:{name}", partial(_torchvision, name))
    for name in SEGMENTATION:
        yield Entry(f"torchvision:{name}", partial(_segmentation, name))
    for name in VIDEO:
        yield Entry(f"torchvision:{name}", partial(_video, name))
    for name in TIMM:
        yield Entry(f"timm:{name}", partial(_timm, name))
    for name in _CONFIGURATIONS:
        yield Entry(f"transformers:{name}", partial(_transformers, name))
    for name, make in _OWN.items():
        yield Entry(f"own:{name}", make)
    for name, toy in TOYS.items():
        yield Entry(f"toy:{name}", lambda toy=toy: (toy.build(), toy.inputs()))


# ---------------------------------------------------------------- libraries


def _torchvision(name: str) -> tuple[nn.Module, Tensor]:
    ensure_torchvision()
    from torchvision import models

    keywords: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, **keywords), torch.randn(2, 3, *_size(name))


def _size(name: str) -> tuple[int, int]:
    side = 299 if name == "inception_v3" else 256 if name == "swin_v2_t" else 224
    return side, side


def _segmentation(name: str) -> tuple[nn.Module, Tensor]:
    ensure_torchvision()
    from torchvision import models

    return models.get_model(name, weights=None, weights_backbone=None), torch.randn(2, 3, 128, 128)


def _video(name: str) -> tuple[nn.Module, Tensor]:
    ensure_torchvision()
    from torchvision import models

    frames, side = (16, 224) if name.startswith(("swin", "mvit", "s3d")) else (8, 112)
    return models.get_model(name, weights=None), torch.randn(2, 3, frames, side, side)


def _timm(name: str) -> tuple[nn.Module, Tensor]:
    ensure_torchvision()
    import timm

    model = timm.create_model(name, pretrained=False, num_classes=1000)
    return model, torch.randn(2, *model.default_cfg["input_size"])  # pyright: ignore


# ---------------------------------------------------------------- transformers, small random ones

_LLAMA = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "use_cache": False,
}
_BERT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_VIT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
_NO_PADDING = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_T5 = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "use_cache": False,
    "decoder_start_token_id": 0,
}
_WHISPER = {
    "vocab_size": 96,
    "num_mel_bins": 8,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_source_positions": 16,
    "max_target_positions": 16,
    "use_cache": False,
    "decoder_start_token_id": 1,
    **_NO_PADDING,
}
_MAMBA = {"vocab_size": 96, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "use_cache": False}
_GPT2 = {"vocab_size": 96, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "use_cache": False}
_CLIP = {
    "text_config": {**_BERT, "max_position_embeddings": 16, **_NO_PADDING},
    "vision_config": _VIT,
    "projection_dim": 16,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

_CONFIGURATIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "gpt2": ("GPT2LMHeadModel", _GPT2, "tokens"),
    "gpt_neox": ("GPTNeoXForCausalLM", {**_BERT, "use_cache": False}, "tokens"),
    "opt": (
        "OPTForCausalLM",
        {
            "vocab_size": 96,
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 32,
            "word_embed_proj_dim": 32,
            "use_cache": False,
        },
        "tokens",
    ),
    "llama": ("LlamaForCausalLM", _LLAMA, "tokens"),
    "mistral": ("MistralForCausalLM", {**_LLAMA, "sliding_window": 4}, "tokens"),
    "qwen2": ("Qwen2ForCausalLM", {k: v for k, v in _LLAMA.items() if k != "head_dim"}, "tokens"),
    "qwen3": ("Qwen3ForCausalLM", _LLAMA, "tokens"),
    "gemma": ("GemmaForCausalLM", _LLAMA, "tokens"),
    "gemma2": ("Gemma2ForCausalLM", _LLAMA, "tokens"),
    "phi3": ("Phi3ForCausalLM", {**{k: v for k, v in _LLAMA.items() if k != "head_dim"}, **_NO_PADDING}, "tokens"),
    "mixtral": ("MixtralForCausalLM", {**_LLAMA, **_EXPERTS}, "tokens"),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        {
            **{k: v for k, v in _LLAMA.items() if k != "head_dim"},
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 24,
        },
        "tokens",
    ),
    "mamba": ("MambaForCausalLM", _MAMBA, "tokens"),
    "t5": ("T5ForConditionalGeneration", _T5, "both"),
    "bert": ("BertForSequenceClassification", _BERT, "tokens"),
    "roberta": ("RobertaForSequenceClassification", {**_BERT, "max_position_embeddings": 32}, "tokens"),
    "distilbert": (
        "DistilBertForSequenceClassification",
        {"vocab_size": 96, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
        "tokens",
    ),
    "albert": ("AlbertForSequenceClassification", {**_BERT, "embedding_size": 16}, "tokens"),
    "electra": ("ElectraForSequenceClassification", {**_BERT, "embedding_size": 16}, "tokens"),
    "deberta_v2": (
        "DebertaV2ForSequenceClassification",
        {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4},
        "tokens",
    ),
    "vit": ("ViTForImageClassification", _VIT, "pixels"),
    "dinov2": ("Dinov2ForImageClassification", {**_VIT, "mlp_ratio": 2}, "pixels"),
    "clip": ("CLIPModel", _CLIP, "clip"),
    "whisper": ("WhisperForConditionalGeneration", _WHISPER, "audio"),
    "segformer": (
        "SegformerForImageClassification",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16},
        "pixels",
    ),
}


def _transformers(name: str) -> tuple[nn.Module, dict[str, Any]]:
    ensure_torchvision()
    import transformers

    class_name, settings, kind = _CONFIGURATIONS[name]
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**settings))
    ids = torch.randint(3, 96, (2, 9))
    inputs: dict[str, dict[str, Any]] = {
        "tokens": {"input_ids": ids},
        "both": {"input_ids": ids, "decoder_input_ids": ids[:, :5]},
        "pixels": {"pixel_values": torch.randn(2, 3, 32, 32)},
        "clip": {"input_ids": ids, "pixel_values": torch.randn(2, 3, 32, 32)},
        "audio": {"input_features": torch.randn(2, 8, 32), "decoder_input_ids": ids[:, :5]},
    }
    return model, inputs[kind]


# ---------------------------------------------------------------- our own


class Sequence(nn.Module):
    """A recurrent classifier of tokens."""

    def __init__(self, rnn: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.embedding = nn.Embedding(96, 32)
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size * (1 + rnn.bidirectional), 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(tokens))[0][:, -1])


class UNet(nn.Module):
    """Three scales, skips by concatenation."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList([_double(a, b) for a, b in zip([3, *sizes], sizes, strict=False)])
        self.bottom = _double(sizes[-1], 8 * width)
        self.up = nn.ModuleList([nn.ConvTranspose2d(2 * size, size, 2, 2) for size in reversed(sizes)])
        self.merge = nn.ModuleList([_double(2 * size, size) for size in reversed(sizes)])
        self.last = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            skips.append(block(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = self.bottom(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.last(x)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in (inputs, outputs):
        layers += [nn.Conv2d(size, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def _tokens() -> Tensor:
    return torch.randint(96, (2, 9))


_OWN: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "lstm": lambda: (Sequence(nn.LSTM(32, 24, 2, batch_first=True, bidirectional=True)), _tokens()),
    "gru": lambda: (Sequence(nn.GRU(32, 24, batch_first=True)), _tokens()),
    "unet": lambda: (UNet(), torch.randn(2, 3, 64, 64)),
}
