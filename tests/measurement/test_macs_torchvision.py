"""Whole networks against PyTorch's own counter of floating-point operations, which counts each product as two."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sparsewood.measurement import count_macs
from sparsewood.models.wheels import ensure_torchvision


def flops(model: nn.Module, x: torch.Tensor) -> int:
    fast, torch.backends.mkldnn.enabled = torch.backends.mkldnn.enabled, False
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(x)
    finally:
        torch.backends.mkldnn.enabled = fast
        torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50", {}),
        ("mobilenet_v2", {}),
        ("shufflenet_v2_x1_0", {}),
        ("densenet121", {}),
        ("vit_b_16", {"image_size": 64, "num_layers": 3}),
        ("swin_t", {}),
        ("swin_v2_t", {}),
        ("convnext_tiny", {}),
        ("efficientnet_b0", {}),
        ("regnet_y_400mf", {}),
        ("googlenet", {"init_weights": False, "aux_logits": False}),
        ("fcn_resnet50", {"weights_backbone": None}),
        ("lraspp_mobilenet_v3_large", {"weights_backbone": None}),
    ],
)
def test_torchvision(name: str, options: dict[str, Any]) -> None:
    ensure_torchvision()
    models = pytest.importorskip("torchvision.models")
    if name == "vit_b_16":
        vit = {"patch_size": 16, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
        model = models.VisionTransformer(**vit, **options).eval()
    else:
        model = models.get_model(name, weights=None, **options).eval()
    x = torch.randn(1, 3, 64, 64)
    counted = count_macs(model, x)
    assert 2 * counted.macs == flops(model, x)
    assert counted.uncounted == ()
    assert set(counted.per_parameter) <= {name for name, _ in model.named_parameters()} | {""}


def test_decoder_with_transposed_convolutions() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=2),
        nn.ConvTranspose2d(8, 3, 3, stride=2, output_padding=1),
    ).eval()
    x = torch.randn(2, 3, 16, 16)
    assert 2 * count_macs(model, x).macs == flops(model, x)
