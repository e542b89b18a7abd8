"""Example inputs: something that a model can be called with, where its source says what it takes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import map_tensors

__all__ = ["example_inputs", "inputs_of_shapes"]

_TOKENS = 16
_IDS = ("input_ids", "decoder_input_ids")


def example_inputs(model: nn.Module, name: str = "", /, **parameters: Any) -> Any:
    """One example that `model` can be called with: a tensor, a tuple of positional or a dict of keyword inputs.

    `name` and `parameters` are those that `load_model` was given. Where the model, or the function that `name` stands
    for, has an attribute `example_inputs` (or `example_input_array`, as in Lightning), it is that, called if it is a
    function. Otherwise a model of timm, torchvision, transformers or `sparsewood.models` says what it takes: an image,
    tokens, sound, or tokens with images. The values are the same every time.

    Raises `SparsewoodError` if nothing says what the model takes.

    >>> from sparsewood.models import load_model
    >>> example_inputs(load_model("small_conv"), "small_conv").shape
    torch.Size([1, 1, 8, 8])
    """
    own = _own(model, name)
    if own is not None:
        return own
    sources: tuple[Callable[[], Any], ...] = (
        lambda: _of_timm(model, parameters),
        lambda: _of_transformers(model),
        lambda: _of_torchvision(model),
        lambda: _of_reference_model(name, parameters),
    )
    for source in sources:
        found = source()
        if found is not None:
            return _in_dtype_of(model, found)
    raise SparsewoodError(
        f"Nothing says what inputs {name or type(model).__name__!r} takes. Give the shape of one, with the batch: "
        "--input-shape 1,3,224,224 on the command line (1,16:int64 for tokens), or give the model or the function "
        "that makes it an attribute 'example_inputs'."
    )


def inputs_of_shapes(model: nn.Module, shapes: Sequence[str]) -> Any:
    """Inputs of the given shapes: a tensor for one, a tuple for several; "1,3,224,224", or "1,16:int64" for numbers.

    A model of transformers gets one input by its name, so that tokens are tokens. Raises `SparsewoodError` for a text
    that is no shape.

    >>> inputs_of_shapes(nn.Linear(4, 2), ["1,4"]).shape
    torch.Size([1, 4])
    >>> [one.dtype for one in inputs_of_shapes(nn.Linear(4, 2), ["2,3", "2:int64"])]
    [torch.float32, torch.int64]
    """
    main = getattr(model, "main_input_name", None)
    if len(shapes) == 1 and main and _config(model) is not None:
        shape, dtype = _parsed(shapes[0])
        ids = main in _IDS and dtype is None
        tensor = _ids(_config(model), shape) if ids else _filled(shape, dtype or torch.float32)
        return _in_dtype_of(model, _named(model, {main: tensor}))
    tensors = [_filled(shape, dtype or torch.float32) for shape, dtype in map(_parsed, shapes)]
    return _in_dtype_of(model, tensors[0] if len(tensors) == 1 else tuple(tensors))


def _parsed(text: str) -> tuple[tuple[int, ...], torch.dtype | None]:
    sizes, _, kind = text.partition(":")
    dtype = getattr(torch, kind.strip(), None) if kind else None
    try:
        shape = tuple(int(size) for size in sizes.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1 or (kind and not isinstance(dtype, torch.dtype)):
        raise SparsewoodError(
            "A shape must be whole numbers >= 1, the batch first, as 1,3,224,224, and for other than floating-point "
            f"numbers a dtype, as 1,16:int64. Got {text!r}."
        )
    return shape, dtype


# ---------------------------------------------------------------- who says what is taken


def _own(model: nn.Module, name: str) -> Any:
    """What the model, or the function that made it, carries itself."""
    source, _, attribute = name.partition(":")
    places: list[Any] = [model]
    if attribute and source not in ("torchvision", "timm", "transformers"):
        places.append(getattr(importlib.import_module(source), attribute, None))
    for place in places:
        for key in ("example_inputs", "example_input_array"):
            found = getattr(place, key, None)
            if found is not None:
                return found() if callable(found) and not isinstance(found, Tensor) else found
    return None


def _of_timm(model: nn.Module, parameters: Mapping[str, Any]) -> Tensor | None:
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if not (isinstance(config, Mapping) and "input_size" in config):
        return None
    channels, *size = config["input_size"]
    channels = parameters.get("channels", parameters.get("in_chans", channels))
    patches = getattr(getattr(model, "patch_embed", None), "img_size", None)
    given = parameters.get("img_size", patches)
    size = [given, given] if isinstance(given, int) else given or size
    return _image(channels, *size)


def _of_torchvision(model: nn.Module) -> Any:
    module = type(model).__module__
    if not module.startswith("torchvision.models."):
        return None
    kind = module.split(".")[2]
    if kind == "video":
        size = 112 if module.endswith("resnet") else 224
        return _filled((1, 3, 16, size, size), torch.float32)
    if kind == "detection":
        return ([_image(3, 224, 224)[0]],)
    if kind == "optical_flow":
        return _image(3, 128, 128), _image(3, 128, 128)
    size = getattr(model, "image_size", 299 if kind == "inception" else 224)
    return _image(3, size, size)


def _of_reference_model(name: str, parameters: Mapping[str, Any]) -> Tensor | None:
    models = importlib.import_module("sparsewood.models")  # which will import this module
    if name not in models.__all__:
        return None
    signature = inspect.signature(getattr(models, name)).parameters
    settings = {key: one.default for key, one in signature.items()} | dict(parameters)
    if "inputs" in settings:
        return _filled((1, settings["inputs"]), torch.float32)
    large = settings.get("stem", "cifar") != "cifar"
    size = settings.get("size", 224 if large else 32)
    return _image(settings.get("channels", 3), size, size)


# ---------------------------------------------------------------- transformers


def _of_transformers(model: nn.Module) -> dict[str, Any] | None:
    config, main = _config(model), getattr(model, "main_input_name", None)
    if config is None or main is None:
        return None
    taken = inspect.signature(model.forward).parameters
    names = [main]
    if hasattr(config, "vision_config") and "pixel_values" in taken:
        names.append("pixel_values")
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in taken:
        names.append("decoder_input_ids")
    tensors = {one: _transformers_input(config, one) for one in dict.fromkeys(names)}
    return None if any(tensor is None for tensor in tensors.values()) else _named(model, tensors)


def _named(model: nn.Module, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs, without a cache of keys and values: it is no part of the network."""
    cache = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    return {**tensors, **cache}


def _config(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    return config if hasattr(config, "model_type") else None


def _transformers_input(config: Any, name: str) -> Tensor | None:
    if name in _IDS:
        tokens = min(_TOKENS, _setting(config, "max_position_embeddings", "n_positions", default=_TOKENS))
        return _ids(config, (1, tokens))
    if name == "pixel_values":
        size = _setting(config, "image_size", default=224)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        image = _image(_setting(config, "num_channels", default=3), height, width)
        frames = _setting(config, "num_frames")
        return image if frames is None else image[:, None].expand(-1, frames, -1, -1, -1)
    return _sound(config, name)


def _sound(config: Any, name: str) -> Tensor | None:
    """Spectra or waves, as the configuration describes them."""
    bands, longest = _setting(config, "num_mel_bins"), _setting(config, "max_source_positions")
    if name == "input_features" and bands and longest and config.model_type == "whisper":
        return _filled((1, bands, 2 * longest), torch.float32)
    if name == "input_features" and _setting(config, "input_feat_per_channel"):
        return _filled((1, 128, config.input_feat_per_channel * config.input_channels), torch.float32)
    if name == "input_values" and bands and _setting(config, "max_length"):
        return _filled((1, config.max_length, bands), torch.float32)
    return _filled((1, 16_000), torch.float32) if name == "input_values" else None


def _setting(config: Any, *names: str, default: Any = None) -> Any:
    """The first of the settings that the configuration has, or that of its text or vision part."""
    parts = (config, *(getattr(config, part, None) for part in ("text_config", "vision_config", "encoder", "decoder")))
    for part in parts:
        for name in names:
            found = getattr(part, name, None)
            if found is not None:
                return found
    return default


def _ids(config: Any, shape: tuple[int, ...]) -> Tensor:
    """Different tokens; the last one ends the text, which some classifiers look for."""
    words = _setting(config, "vocab_size", default=100)
    ids = (torch.arange(shape[-1]) * 7 + 5) % words
    end = _setting(config, "eos_token_id")
    ids = torch.where(ids == end, (ids + 1) % words, ids) if isinstance(end, int) else ids
    if isinstance(end, int) and 0 <= end < words:
        ids[-1] = end
    return ids.expand(shape).contiguous()


# ---------------------------------------------------------------- values


def _image(channels: int, height: int, width: int) -> Tensor:
    return _filled((1, channels, height, width), torch.float32)


def _filled(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Values that are the same every time: standard normal, or zeros for what is not floating-point."""
    if not dtype.is_floating_point:
        return torch.zeros(tuple(shape), dtype=dtype)
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0)).to(dtype)


def _in_dtype_of(model: nn.Module, inputs: Any) -> Any:
    """Floating-point inputs in the dtype and on the device of the model's parameters."""
    first = next((one for one in model.parameters() if one.is_floating_point()), None)
    if first is None:
        return inputs

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(first.device, first.dtype) if tensor.is_floating_point() else tensor.to(first.device)

    return map_tensors(moved, inputs)
