"""Sequential convolutional networks from a spec, and those of the mean replacement paper."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.models.convnet_spec import ACTIVATIONS, Extras, build
from sparsewood.models.initial import drawn_from, require_choice, require_counts, require_rate

__all__ = ["SPECS", "ConvNet", "convnet"]

Activation = Literal["relu", "tanh", "sigmoid", "gelu", "elu"]

_SAME = {"padding": "same"}
_HALVED = {"padding": "same", "strides": 2}

SPECS: Mapping[str, Sequence[Sequence[Any]]] = {
    "default": (("C", 16, 5), ("MP", 2, 2), ("C", 32, 5), ("MP", 2, 2), ("F",), ("D", 256)),
    "small_conv": (
        *(("C", 32, 5), ("MP", 2, 2), ("C", 64, 3), ("MP", 2, 2), ("C", 128, 3), ("MP", 2, 2)),
        *(("F",), ("D", 512), ("D", 128)),
    ),
    "medium_conv": (
        *(("C", 64, 5), ("MP", 2, 2), ("C", 128, 3), ("MP", 2, 2), ("C", 256, 3), ("MP", 2, 2)),
        *(("F",), ("D", 1024), ("D", 256)),
    ),
    "morcos_conv": (
        *(("C", 64, 3, _SAME), ("C", 64, 3, _SAME)),
        *(("C", 128, 3, _HALVED), ("C", 128, 3, _SAME), ("C", 128, 3, _SAME)),
        *(("C", 256, 3, _HALVED), ("C", 256, 3, _SAME), ("C", 256, 3, _SAME)),
        *(("C", 512, 3, _HALVED), ("C", 512, 3, _SAME), ("C", 512, 3, _SAME)),
        ("F",),
    ),
    "morcos_convfc": (
        ("C", 64, 3, _SAME),
        *(("C", 128, 3, _HALVED), ("C", 128, 3, _SAME)),
        *(("C", 256, 3, _HALVED), ("C", 256, 3, _SAME)),
        *(("C", 512, 3, _HALVED), ("C", 512, 3, _SAME)),
        *(("F",), ("D", 1024), ("D", 128)),
    ),
    "alexnet_cifar10": (
        *(("C", 96, 5, _HALVED), ("MP", 2, 2), ("C", 256, 5, _SAME), ("MP", 2, 2)),
        *(("C", 384, 3, _SAME), ("C", 384, 3, _SAME), ("C", 256, 3, _SAME)),
        *(("F",), ("D", 256)),
    ),
    "alexnet_imagenet": (
        *(("C", 96, 11, {"strides": 4}), ("MP", 3, 2), ("C", 256, 5), ("MP", 3, 2)),
        *(("C", 384, 3), ("C", 384, 3), ("C", 256, 3)),
        *(("F",), ("D", 4096), ("D", 4096)),
    ),
}
"""The networks of https://github.com/google-research/deadunits (`model_defs.py`), without the output layer."""


def convnet(
    spec: str | Sequence[Sequence[Any]] = "default",
    *,
    classes: int | None = None,
    channels: int = 3,
    size: int = 32,
    batch_norm: bool = False,
    activation: Activation = "relu",
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> ConvNet:
    """A sequential network from a list of layers, or from the name of one in `SPECS`.

    The entries are [C, units, kernel, {options}], [MP, pool, stride], [D, units], [DO, rate], [F], [GA] and, at the
    end, [O, classes]; see `sparsewood.models.convnet_spec`. After every C and D follow BatchNorm (then the layer has
    no bias), the activation, and dropout. Without O, a linear classifier for `classes` is added (None: 10).

    Maps float[N, channels, size, size] to logits float[N, classes]. Raises `SparsewoodError` that names the entry of
    the spec which is malformed or does not fit.

    Source: the generic convnet of https://github.com/google-research/deadunits (Evci et al. 2018, Mean Replacement
    Pruning); there BatchNorm has no scale and shift, and "same" pads an even number of pixels on one side more.

    >>> model = convnet([["C", 8, 3, {"padding": "same"}], ["GA"], ["O", 5]], size=8)
    >>> list(dict(model.named_children()))
    ['conv_1', 'conv_1_a', 'gap_1', 'output_1']
    >>> convnet([["C", 8, 9], ["GA"]], size=8)
    Traceback (most recent call last):
    sparsewood.errors.SparsewoodError: spec[0] = ['C', 8, 9]: a window of 9 x 9 does not fit into a map of 8 x 8 pixels.
    """
    require_counts("convnet", channels=channels, size=size)
    require_choice("convnet", "activation", activation, tuple(ACTIVATIONS))
    require_rate("convnet", "dropout", dropout)
    entries = _with_output(_entries(spec), classes)
    with drawn_from(generator):
        layers = build(entries, (channels, size, size), Extras(batch_norm, activation, dropout))
    settings = {"channels": channels, "size": size, "batch_norm": batch_norm, "activation": activation}
    return ConvNet(layers, {"spec": entries, **settings, "dropout": dropout})


class ConvNet(nn.Sequential):
    """A sequential network that knows its spec and can give the outputs of its layers by name."""

    def __init__(self, layers: Mapping[str, nn.Module], spec: Mapping[str, Any]) -> None:
        super().__init__(OrderedDict(layers))
        self._spec = spec

    @property
    def spec(self) -> dict[str, Any]:
        """All parameters, as plain lists and numbers for a JSON or YAML file: `convnet(**model.spec)` builds it anew.

        >>> convnet(**convnet("medium_conv").spec).spec == convnet("medium_conv").spec
        True
        """
        return {name: _plain(value) for name, value in self._spec.items()}

    def return_nodes(self, images: Tensor, names: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits of `images`, and the outputs of the layers called `names`, in one pass.

        Raises `UnknownName` for what is no layer.

        >>> logits, nodes = convnet().return_nodes(torch.zeros(2, 3, 32, 32), ["conv_1_a"])
        >>> nodes["conv_1_a"].shape
        torch.Size([2, 16, 28, 28])
        """
        wanted = list(names)
        layers = dict(self.named_children())
        for name in wanted:
            if name not in layers:
                raise UnknownName.among("node of the convnet", name, layers)
        found: dict[str, Tensor] = {}
        for name, layer in layers.items():
            images = layer(images)
            found[name] = images
        return images, {name: found[name] for name in wanted}


def _entries(spec: str | Sequence[Any]) -> list[Any]:
    if isinstance(spec, str):
        if spec not in SPECS:
            raise UnknownName.among("convnet spec", spec, SPECS)
        spec = SPECS[spec]
    if not isinstance(spec, Sequence) or not spec:
        raise SparsewoodError(f"The spec of a convnet must be a list of layers, as [[C, 16, 3], [GA]]. Got {spec!r}.")
    return _plain(spec)


def _with_output(entries: list[Any], classes: int | None) -> list[Any]:
    if classes is not None:
        require_counts("convnet", classes=classes)
    match entries[-1]:
        case ["O", units]:
            if classes not in (None, units):
                raise SparsewoodError(
                    f"The spec of the convnet ends with ['O', {units!r}], but classes={classes}. Leave one of them out."
                )
            return entries
        case _:
            return [*entries, ["O", 10 if classes is None else classes]]


def _plain(value: Any) -> Any:
    """Lists for all sequences, dicts for all mappings, for what a YAML reader or a tuple brings."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
