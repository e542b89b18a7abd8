"""Models by name: reference models, those of other libraries, and your own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.models.initial import drawn_from
from sparsewood.models.libraries import from_timm, from_torchvision, unknown_parameter
from sparsewood.models.transformers_models import from_transformers
from sparsewood.models.wheels import ensure_torchvision

__all__ = ["load_model"]

LIBRARIES: Mapping[str, Callable[..., nn.Module]] = {
    "torchvision": from_torchvision,
    "timm": from_timm,
    "transformers": from_transformers,
}

OTHER_NAMES = {
    "classes": ("num_classes", "n_classes", "num_labels"),
    "channels": ("in_channels", "in_chans", "num_channels"),
}


def load_model(
    name: str,
    /,
    *,
    pretrained: bool | str = False,
    generator: torch.Generator | None = None,
    **parameters: Any,
) -> nn.Module:
    """The model called `name`, in training mode, built with `parameters`; its output for a batch of images is logits.

    Names are

    * a reference model of `sparsewood.models.__all__`: "resnet_cifar";
    * "torchvision:resnet18", a model of torchvision, those for segmentation, detection and video included;
    * "timm:vit_tiny_patch16_224", a model of timm;
    * "transformers:vit" or "transformers:ViTConfig", a model type or configuration class of transformers, built from a
      configuration with `parameters`; `task="text-classification"` or "causal-lm" gives another head than the
      default "image-classification", "none" none, "any" the first that there is. `model(images)` gives logits; with
      keyword arguments the model answers as transformers documents it (a ModelOutput). Names in its
      `state_dict` are unchanged;
    * "package.module:factory", a function or class of your own that gives a `torch.nn.Module`. The module is imported,
      which runs its code.

    `classes` and `channels` are called what the source calls them (`num_classes`, `num_labels`, `in_chans`, ...).

    `pretrained` takes published weights, downloaded when first used: True for torchvision and timm (or the name of
    torchvision weights), "organisation/name" of a checkpoint for transformers. Otherwise nothing is downloaded.

    Weights come from `generator` if one is given: the same state gives the same weights, whatever the source, and
    the global random state is left as it was.

    Raises `UnknownName` for a name or parameter that does not exist, and `SparsewoodError` for a missing library,
    weights that cannot be had, and parameters that the source refuses.

    >>> load_model("resnet_cifar", depth=20, classes=100).fc.out_features
    100
    >>> load_model("lenet5_coffee")
    Traceback (most recent call last):
    sparsewood.errors.UnknownName: Unknown model 'lenet5_coffee'. Did you mean 'lenet5_caffe'?
    """
    if not isinstance(name, str):
        raise SparsewoodError(f"The name of a model must be a text, as 'resnet_cifar'. Got {name!r}.")
    source, separator, rest = name.partition(":")
    if not separator:
        return _from_catalogue(name, pretrained, generator, parameters)
    if source not in LIBRARIES:
        return _from_module(source, rest, {"pretrained": pretrained} if pretrained else {}, generator, parameters)
    with drawn_from(generator):
        return LIBRARIES[source](rest, pretrained, parameters).train()


def _from_catalogue(
    name: str, pretrained: bool | str, generator: torch.Generator | None, parameters: Mapping[str, Any]
) -> nn.Module:
    models = importlib.import_module("sparsewood.models")  # which imports this module
    if name not in models.__all__:
        raise UnknownName.among("model", name, models.__all__)
    if pretrained:
        raise SparsewoodError(
            f"The reference model {name!r} has no published weights. Got pretrained={pretrained!r}. Leave it out, or "
            "use a model of torchvision, timm or transformers, as 'torchvision:resnet18'."
        )
    factory = getattr(models, name)
    _check_parameters(f"model {name!r}", factory, parameters)
    return factory(**parameters, generator=generator)


def _from_module(
    source: str,
    attribute: str,
    pretrained: Mapping[str, Any],
    generator: torch.Generator | None,
    parameters: Mapping[str, Any],
) -> nn.Module:
    label = f"{source}:{attribute}"
    factory = _factory(source, attribute, label)
    accepted = _accepted(factory)
    settings = {_own_name(key, accepted): value for key, value in {**parameters, **pretrained}.items()}
    own_generator = accepted is not None and "generator" in accepted
    if own_generator:
        settings["generator"] = generator
    _check_parameters(f"model {label!r}", factory, settings)
    with drawn_from(None if own_generator else generator):
        model = factory(**settings)
    if not isinstance(model, nn.Module):
        raise SparsewoodError(f"{label!r} must give a torch.nn.Module. It gave {type(model).__name__}.")
    return model.train()


def _factory(source: str, attribute: str, label: str) -> Callable[..., Any]:
    if source.partition(".")[0] in LIBRARIES:  # a path into a library, as torchvision.models.segmentation:fcn_resnet50
        ensure_torchvision()
    try:
        module = importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{source}.".startswith(f"{error.name}."):
            raise
        raise UnknownName(
            f"There is no module {source!r} to import for the model {label!r}. Is its folder on PYTHONPATH? Besides "
            f"modules there are {', '.join(LIBRARIES)}."
        ) from None
    except (TypeError, ValueError):  # what the import system says to "", ".a" and "a..b"
        raise SparsewoodError(
            f"A model of your own is named 'package.module:factory'. Got {label!r}, in which {source!r} is no module."
        ) from None
    factory = getattr(module, attribute, None)
    if not callable(factory):
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise UnknownName.among(f"function of {source}", attribute, public)
    return factory


def _accepted(factory: Callable[..., Any]) -> list[str] | None:
    """The names of the parameters of `factory`; None if it takes any."""
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter.name for parameter in parameters if parameter.kind in named]


def _own_name(key: str, accepted: Iterable[str] | None) -> str:
    if accepted is None or key in accepted:
        return key
    return next((other for other in OTHER_NAMES.get(key, ()) if other in accepted), key)


def _check_parameters(label: str, factory: Callable[..., Any], parameters: Mapping[str, Any]) -> None:
    accepted = _accepted(factory)
    for key in parameters:
        if accepted is not None and key not in accepted:
            raise unknown_parameter(label, key, [name for name in accepted if name != "generator"])
    try:
        inspect.signature(factory).bind(**parameters)
    except TypeError as error:
        raise SparsewoodError(f"The {label} cannot be built: {error}. Give this parameter.") from None
