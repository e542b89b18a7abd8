"""Layers by their place in a network: the first convolution, the last, all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn
from torch.nn.modules.conv import _ConvNd

from sparsewood.errors import SparsewoodError, UnknownName, require_model

__all__ = ["select_layers"]

# The middle of n convolutions is number (n + 1) // 2, counted from 1.
_PLACES: dict[str, tuple[type[nn.Module], str, Callable[[int], int]]] = {
    "firstconv": (_ConvNd, "convolution", lambda _: 0),
    "midconv": (_ConvNd, "convolution", lambda n: (n + 1) // 2 - 1),
    "lastconv": (_ConvNd, "convolution", lambda n: n - 1),
    "firstdense": (nn.Linear, "linear layer", lambda _: 0),
}


def select_layers(model: nn.Module, which: str | Sequence[str]) -> tuple[str, ...]:
    """The names of layers by their kind and their place in registration order.

    `which` is `"all"` (all convolutions and linear layers, less the last if there are several: the classifier),
    `"firstconv"`, `"midconv"` (number (n + 1) // 2 of n), `"lastconv"`, `"firstdense"`, the name of a layer or of a
    module around layers, or a list of these. Words are understood in any case; a name of the network comes first.
    The result fits `include` and the layers of an event.

    Raises `UnknownName` for a name that is none, `SparsewoodError` for a kind of layer that the network has not.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 2))
    >>> select_layers(net, "all"), select_layers(net, ["LastConv", "3"])
    (('0', '1', '3'), ('1', '3'))
    """
    require_model(model)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _ConvNd | nn.Linear)}
    if not layers:
        raise SparsewoodError(f"{type(model).__name__} has no convolution and no linear layer to select.")
    wanted = [which] if isinstance(which, str) else list(which)
    if not wanted or not all(isinstance(word, str) for word in wanted):
        raise SparsewoodError(f"select_layers takes a word, a name, or a list of these. Got {which!r}.")
    chosen = {name for word in wanted for name in _meant(word, layers)}
    return tuple(name for name in layers if name in chosen)


def _meant(word: str, layers: Mapping[str, nn.Module]) -> list[str]:
    below = [name for name in layers if name == word or name.startswith(f"{word}.")]
    if below:
        return below
    token = word.lower()
    if token == "all":
        return list(layers)[: max(1, len(layers) - 1)]
    if token not in _PLACES:
        raise UnknownName.among("layer", word, [*layers, "all", *_PLACES])
    kind, what, place = _PLACES[token]
    found = [name for name, module in layers.items() if isinstance(module, kind)]
    if not found:
        raise SparsewoodError(f"{word!r}: the network has no {what}. Its layers: {', '.join(list(layers)[:8])}.")
    return [found[place(len(found))]]
