"""Models of torchvision and timm."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.models.wheels import ensure_torchvision

__all__ = ["built", "from_timm", "from_torchvision", "library", "renamed", "unknown_parameter", "with_classes"]

TORCHVISION_NAMES = {"classes": "num_classes"}
TIMM_NAMES = {"classes": "num_classes", "channels": "in_chans"}


def from_torchvision(name: str, pretrained: bool | str, parameters: Mapping[str, Any]) -> nn.Module:
    """The model `name` of torchvision, with `pretrained` weights (True: its best ones) or new ones.

    All that it lists but the quantized ones: classifiers, and models for segmentation, detection, video and flow.
    Without `pretrained`, their backbones are new, too, unless `weights_backbone` names weights.

    Pretrained weights with another number of `classes` get a new last layer. GoogLeNet and Inception of torchvision
    give more than logits in training mode unless `aux_logits=False`.

    Raises `UnknownName` for another name or parameter, `SparsewoodError` if torchvision is missing or refuses.
    """
    models = library("torchvision", "vision").models
    known = [one for one in models.list_models() if not one.startswith("quantized_")]
    if name not in known:
        raise UnknownName.among("model of torchvision", name, known)
    weights = "DEFAULT" if pretrained is True else pretrained or None
    settings = renamed(parameters, TORCHVISION_NAMES)

    takes_backbone = "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters
    backbone = {"weights_backbone": None} if takes_backbone else {}  # by default it would be downloaded
    if weights is None:
        settings = {**backbone, **settings}

    # With weights torchvision insists on the number of classes that they were trained for.
    classes = settings.pop("num_classes", None) if weights is not None else None

    def accepted() -> list[str]:
        return _constructor_parameters(lambda: models.get_model(name, **backbone), TORCHVISION_NAMES)

    model = built(
        f"torchvision:{name}", lambda: models.get_model(name, weights=weights, **settings), accepted, pretrained
    )
    return model if classes is None else with_classes(model, classes)


def with_classes(model: nn.Module, classes: int) -> nn.Module:
    """`model`, its last linear or convolutional layer replaced by a new one with `classes` outputs, if it has others.

    >>> with_classes(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1000)), 10)[2]
    Linear(in_features=8, out_features=10, bias=True)
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    name, last = found[-1]
    bias = last.bias is not None
    if isinstance(last, nn.Linear):
        new: nn.Module = nn.Linear(last.in_features, classes, bias)
        outputs = last.out_features
    else:
        new, outputs = nn.Conv2d(last.in_channels, classes, 1, bias=bias), last.out_channels
    if outputs != classes:
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, new)
    return model


def from_timm(name: str, pretrained: bool | str, parameters: Mapping[str, Any]) -> nn.Module:
    """The model `name` of timm, with `pretrained` weights or new ones; new `classes` get a new classifier.

    Raises `UnknownName` for another name or parameter, `SparsewoodError` if timm is missing or refuses.
    """
    timm = library("timm", "vision")
    if not timm.is_model(name):
        raise UnknownName.among("model of timm", name, timm.list_models())
    if isinstance(pretrained, str):
        raise SparsewoodError(
            f"timm takes the name of the weights as part of the model's. Got pretrained={pretrained!r}. Ask for "
            f"'timm:{name}.{pretrained}' with pretrained=True."
        )
    settings = renamed(parameters, TIMM_NAMES)

    def accepted() -> list[str]:
        return _constructor_parameters(lambda: timm.create_model(name), TIMM_NAMES)

    return built(
        f"timm:{name}", lambda: timm.create_model(name, pretrained=pretrained, **settings), accepted, pretrained
    )


def library(package: str, extra: str) -> ModuleType:
    """The imported `package`, or `SparsewoodError` with the command that installs it."""
    ensure_torchvision()  # timm and the image models of transformers import torchvision
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise SparsewoodError(
            f"Models of {package} need the package {error.name!r}, which is not installed. Run: "
            f"pip install 'sparsewood[{extra}]'"
        ) from error


def renamed(parameters: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`parameters` as a library calls them. Raises `SparsewoodError` if one is given under both names."""
    for name, other in names.items():
        if name in parameters and other in parameters:
            raise SparsewoodError(f"{name!r} and {other!r} are the same parameter. Got both. Leave {other!r} out.")
    return {names.get(name, name): value for name, value in parameters.items()}


def unknown_parameter(label: str, name: str, accepted: Iterable[str]) -> UnknownName:
    """The error for a parameter that the model called `label` does not take.

    >>> print(unknown_parameter("model 'resnet_cifar'", "deph", ["depth", "classes"]))
    The model 'resnet_cifar' has no parameter 'deph'. Did you mean 'depth'? It takes depth, classes.
    """
    accepted = list(accepted)
    close = difflib.get_close_matches(name, accepted, n=1, cutoff=0.7)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    takes = f"It takes {', '.join(accepted)}." if accepted else "Its documentation says what it takes."
    return UnknownName(f"The {label} has no parameter {name!r}.{hint} {takes}")


def built(
    label: str, build: Callable[[], nn.Module], accepted: Callable[[], list[str]], pretrained: bool | str
) -> nn.Module:
    """What `build` gives; what it raises becomes a `SparsewoodError` that says what to do."""
    try:
        return build()
    except Exception as error:
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if isinstance(error, TypeError) and unexpected:
            raise unknown_parameter(f"model {label!r}", unexpected[1], accepted()) from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"
        if pretrained:
            raise SparsewoodError(
                f"The pretrained weights of {label!r} could not be loaded (pretrained={pretrained!r}): {reason}. They "
                "are downloaded when first used: without a connection, put them into the library's cache beforehand, "
                "or leave 'pretrained' out."
            ) from error
        raise SparsewoodError(f"The model {label!r} could not be built with these parameters: {reason}.") from error


def _constructor_parameters(build: Callable[[], nn.Module], names: Mapping[str, str]) -> list[str]:
    """What the class of the model takes, in our words; empty where this cannot be told without building it in full."""
    try:
        with torch.device("meta"):
            parameters = inspect.signature(type(build())).parameters.values()
    except Exception:  # some models compute numbers while they are built, which the meta device has not
        return []
    ours = {other: name for name, other in names.items()}
    # What has no default is what the library itself gives.
    optional = [p.name for p in parameters if p.default is not p.empty]
    return [ours.get(name, name) for name in optional]
