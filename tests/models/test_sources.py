"""Models by name from all sources: parameters, weights, logits, and what is said when something is missing."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from sparsewood import models
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.models import load_model
from sparsewood.models.wheels import ensure_torchvision

VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VIT |= {"image_size": 8, "patch_size": 4}
TIMM_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
OWN = "own_models_of_this_test"
CODE = """
from torch import nn

def factory(num_classes, *, in_channels=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))

def with_generator(classes=10, generator=None):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
    model.told = generator
    return model.eval()

def anything(**keywords):
    model = nn.Identity()
    model.told = keywords
    return model

def no_model():
    return 3

NUMBER = 5
"""

SOURCES: list[tuple[str, dict[str, Any], int]] = [
    # name, parameters, edge of an image
    ("resnet_cifar", {"depth": 8}, 8),
    ("torchvision:squeezenet1_1", {}, 32),
    ("timm:vit_tiny_patch16_224", TIMM_VIT, 32),
    ("transformers:vit", VIT, 8),
    ("transformers:ViTConfig", VIT, 8),
    (f"{OWN}:factory", {}, 8),
    (f"{OWN}:with_generator", {}, 8),
]


@pytest.fixture(autouse=True)
def _own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / f"{OWN}.py").write_text(CODE)
    (tmp_path / "own_broken.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop(OWN, None)


def need(name: str) -> None:
    package = name.partition(":")[0]
    if package in ("torchvision", "timm", "transformers"):
        ensure_torchvision()
        pytest.importorskip(package)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("name", "parameters", "edge"), SOURCES)
def test_logits_of_every_source(name: str, parameters: dict[str, Any], edge: int) -> None:
    """`classes` is understood by all; the output can be given to a loss; gradients arrive; training mode."""
    need(name)
    model = load_model(name, classes=7, generator=seeded(0), **parameters)
    assert all(module.training for module in model.modules())
    out = model(torch.randn(2, 3, edge, edge, generator=seeded(1)))
    assert type(out) is Tensor
    assert out.shape == (2, 7)
    nn.functional.cross_entropy(out, torch.tensor([0, 6])).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert model.eval()(torch.zeros(1, 3, edge, edge)).isfinite().all()


@pytest.mark.parametrize(("name", "parameters", "edge"), [entry for entry in SOURCES if "with_gen" not in entry[0]])
def test_weights_follow_the_generator(name: str, parameters: dict[str, Any], edge: int) -> None:
    """[7.24] For every source; and the global state stays as it was."""
    del edge
    need(name)
    before = torch.get_rng_state()
    one, two, other = (load_model(name, classes=3, generator=seeded(s), **parameters) for s in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, two)
    assert not same(one, other)


@pytest.mark.parametrize("name", ["timm:resnet10t", "transformers:vit", f"{OWN}:factory", "resnet9"])
def test_channels(name: str) -> None:
    need(name)
    parameters = VIT if "vit" in name else {}
    model = load_model(name, classes=2, channels=5, **parameters)
    if OWN in name:
        assert model[1].in_features == 64 * 5
    else:
        assert next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels == 5


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large", "r3d_18"])
def test_all_kinds_of_torchvision_without_a_connection(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segmentation, detection, video: nothing is downloaded, and `classes` is understood."""
    need("torchvision")

    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    assert isinstance(load_model(f"torchvision:{name}", classes=5), nn.Module)


def test_a_path_into_torchvision() -> None:
    """In a new interpreter, which has not imported it."""
    need("torchvision")
    code = "from sparsewood.models import load_model\nload_model('torchvision.models:squeezenet1_1')\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_librarys_own_names_work_too() -> None:
    need("timm")
    assert load_model("timm:resnet10t", num_classes=3, in_chans=1).fc.out_features == 3
    with pytest.raises(SparsewoodError, match=r"'classes' and 'num_classes' are the same parameter. Got both"):
        load_model("timm:resnet10t", num_classes=3, classes=3)


UNKNOWN = [
    ("lenet5_coffee", {}, r"Unknown model 'lenet5_coffee'\. Did you mean 'lenet5_caffe'\?"),
    ("load_model", {}, "Unknown model 'load_model'"),
    ("vgg", {"dept": 16}, r"The model 'vgg' has no parameter 'dept'\. Did you mean 'depth'\? It takes depth, class"),
    ("vgg", {"zzz": 16}, r"has no parameter 'zzz'\. It takes depth, classifier, .*size\.$"),
    ("torchvision:resnet19", {}, r"Unknown model of torchvision 'resnet19'\. Did you mean 'resnet1"),
    ("torchvision:fcn_resnet51", {}, r"Unknown model of torchvision 'fcn_resnet51'\. Did you mean 'fcn_resnet50'"),
    ("torchvision:quantized_resnet18", {}, "Unknown model of torchvision 'quantized_resnet18'"),
    ("torchvision:resnet18", {"zero_init": 1}, r"'torchvision:resnet18' has no parameter 'zero_init'\. .* classes,"),
    ("torchvision:resnet18", {"channels": 1}, r"has no parameter 'channels'\. .*width_per_group"),
    ("timm:resnet181", {}, r"Unknown model of timm 'resnet181'\. Did you mean 'resnet1"),
    ("timm:resnet18", {"drop_rat": 0}, r"has no parameter 'drop_rat'\. Did you mean 'drop_rate'\?.* classes,"),
    ("transformers:vitt", {}, r"Unknown model type or configuration of transformers 'vitt'\. Did you mean 'vit'"),
    ("transformers:ViTKonfig", {}, "Did you mean 'ViTConfig'"),
    ("transformers:PretrainedConfigs", {}, "Unknown model type or configuration"),
    (
        "transformers:vit",
        {"hiden_size": 8},
        r"no parameter 'hiden_size'\. Did you mean 'hidden_size'\?.* classes, .*task",
    ),
    (f"{OWN}:factori", {}, rf"Unknown function of {OWN} 'factori'\. Did you mean 'factory'\?"),
    (f"{OWN}:NUMBER", {}, rf"Unknown function of {OWN} 'NUMBER'"),
    (f"{OWN}:factory", {"num_klasses": 3}, r"has no parameter 'num_klasses'\. Did you mean 'num_classes'\?"),
    ("torchvison:resnet18", {}, "no module 'torchvison' to import .* there are torchvision, timm, transformers"),
    (f"{OWN}.deeper:factory", {}, "no module|is not a package"),
]


@pytest.mark.parametrize(("name", "parameters", "message"), UNKNOWN)
def test_unknown_names(name: str, parameters: dict[str, Any], message: str) -> None:
    need(name)
    with pytest.raises(UnknownName, match=message):
        load_model(name, **parameters)


def test_other_errors() -> None:
    with pytest.raises(SparsewoodError, match="cannot be built: missing a required argument: 'num_classes'"):
        load_model(f"{OWN}:factory")
    with pytest.raises(SparsewoodError, match=r"must give a torch.nn.Module. It gave int"):
        load_model(f"{OWN}:no_model")
    with pytest.raises(SparsewoodError, match=r"'package.module:factory'. Got ':x'"):
        load_model(":x")
    with pytest.raises(SparsewoodError, match=r"name of a model must be a text, as 'resnet_cifar'. Got 3"):
        load_model(3)  # pyright: ignore
    with pytest.raises(SparsewoodError, match=r"'resnet20' has no published weights. Got pretrained=True"):
        load_model("resnet20", pretrained=True)


def test_what_a_module_itself_lacks_is_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        load_model("own_broken:factory")


def test_a_factory_of_ones_own() -> None:
    generator = seeded(3)
    assert load_model(f"{OWN}:with_generator", generator=generator).told is generator
    keywords = load_model(f"{OWN}:anything", classes=3, size=2, pretrained=True).told
    assert keywords == {"classes": 3, "size": 2, "pretrained": True}
    assert isinstance(load_model("torch.nn:Identity"), nn.Identity)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("torchvision:resnet18", "torchvision", "vision"),
        ("timm:resnet18", "timm", "vision"),
        ("transformers:vit", "transformers", "hf"),
    ],
)
def test_a_missing_library(name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_torchvision()
    for module in [key for key in sys.modules if key.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Absent(package), *sys.meta_path])
    message = rf"Models of {package} need the package '{package}', .* pip install 'sparsewood\[{extra}\]'"
    with pytest.raises(SparsewoodError, match=message):
        load_model(name)


class Absent:
    """Finds no package of one name."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        del path, target
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_published_weights_without_a_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need("torchvision")

    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(SparsewoodError, match=r"weights of 'torchvision:squeezenet1_1' could not be loaded .*no route"):
        load_model("torchvision:squeezenet1_1", pretrained=True)


def test_published_weights_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What lies in the library's cache is loaded, and no connection is made."""
    need("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = importlib.import_module("torchvision").models.SqueezeNet1_1_Weights.DEFAULT
    source = load_model("torchvision:squeezenet1_1", generator=seeded(1))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: source.state_dict())
    assert same(load_model("torchvision:squeezenet1_1", pretrained=True), source)
    assert same(load_model("torchvision:squeezenet1_1", pretrained="IMAGENET1K_V1"), source)
    fewer = load_model("torchvision:squeezenet1_1", pretrained=True, classes=10)
    assert fewer(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
    taken = [name for name, tensor in fewer.state_dict().items() if torch.equal(tensor, source.state_dict()[name])]
    assert set(source.state_dict()) - set(taken) == {"classifier.1.weight", "classifier.1.bias"}


def test_published_weights_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    need("timm")
    timm = importlib.import_module("timm")
    with pytest.raises(SparsewoodError, match=r"Ask for 'timm:resnet18.a1_in1k' with pretrained=True"):
        load_model("timm:resnet18", pretrained="a1_in1k")

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(SparsewoodError, match=r"weights of 'timm:resnet18' could not be loaded .*no route to host"):
        load_model("timm:resnet18", pretrained=True)


def test_load_model_is_no_model() -> None:
    assert "load_model" not in models.__all__
