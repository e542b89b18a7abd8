"""`sparse_kernels`: layers that compute with what is not zero, where that is measured to be faster."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, UnknownName, require_model
from sparsewood.exporting.comparing import largest_difference
from sparsewood.exporting.kernel_report import LayerChoice, SparseKernels
from sparsewood.exporting.kernels import SemiStructuredLinear, SparseConv2d, SparseLinear
from sparsewood.exporting.layers import Layer, layers_of, replace_modules
from sparsewood.exporting.outputs import named_tensors
from sparsewood.exporting.plain import plain_copy
from sparsewood.inputs import Inputs, call, describe, map_tensors, to_model_device
from sparsewood.measurement.timing import compare_latency, time_in_turn
from sparsewood.shrinking.copies import Coarsest
from sparsewood.shrinking.shrink import Shrunk
from sparsewood.snapshot import untouched

__all__ = ["FORMATS", "sparse_kernels"]

FORMATS = ("csr", "bsr", "2:4")
_BLOCKS = (4, 16)
_FULL = 0.5
"""The share of blocks that hold weights above which they are not worth a measurement."""
_MOST_PATCHES = 2**30
"""Bytes of patches up to which a convolution is unfolded."""


@dataclass(frozen=True)
class _Settings:
    formats: tuple[str, ...]
    min_gain: float
    min_sparsity: float
    repeats: int
    seconds: float


def sparse_kernels(
    model: nn.Module | Shrunk,
    example_inputs: Inputs,
    *,
    formats: Sequence[str] = ("csr", "bsr"),
    min_gain: float = 1.1,
    min_sparsity: float = 0.5,
    repeats: int = 15,
    seconds: float = 10.0,
) -> SparseKernels:
    """A copy of `model` with sparse kernels in the layers in which they are faster, on this machine, for these inputs.

    For each `nn.Linear` and each `nn.Conv2d` of one group the dense layer and each format are timed in turn on inputs
    of the shapes that it gets in one forward; the fastest stays if it is faster than dense by `min_gain`. A convolution
    is a product with the patches of its input, which are unfolded in every call. Layers whose weight others share, that
    have hooks, or that are not run as modules are left alone, and the report says so.

    Args:
        model: a network, or what `shrink` returned; it is not changed. Masks and parametrizations are carried out.
        example_inputs: as large a batch as the network is used with; on others the choice may be wrong.
        formats: "csr", compressed rows; "bsr", compressed blocks of 4 x 4 and 16 x 16; "2:4", two of every four weights
            on NVIDIA devices from compute capability 8.0 on, in float16 or bfloat16, elsewhere reported as skipped.
        min_gain: how many times as fast as dense a sparse kernel has to be.
        min_sparsity: layers with a smaller share of zeros are not measured.
        repeats, seconds: at most so many timed calls of a layer, in at most so many seconds, for each shape it reads.

    The copy is for inference: it has no backward pass. Its `state_dict` holds the compressed weights as plain tensors,
    and is loaded into a copy that was made from the same network.

    Raises `SparsewoodError` for settings that mean nothing, and if the copy does not compute the same.

    >>> network = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10))
    >>> _ = network[0].weight.data.mul_(torch.rand(2048, 2048) < 0.01)
    >>> found = sparse_kernels(network, torch.randn(64, 2048))
    >>> [one.chosen for one in found.layers], found.layers[1].reason, type(found.model[2]).__name__
    (['csr', 'dense'], 'its zeros are fewer than min_sparsity=0.5', 'Linear')
    """
    network = model.model if isinstance(model, Shrunk) else model
    require_model(network)
    settings = _settings(formats, min_gain, min_sparsity, repeats, seconds)
    copied = plain_copy(network)
    inputs = map_tensors(lambda tensor: tensor.detach().clone(), to_model_device(example_inputs, copied))
    skipped = {"2:4": why} if "2:4" in settings.formats and (why := _no_two_of_four(copied)) else {}
    usable = tuple(kind for kind in settings.formats if kind not in skipped)
    choices: list[LayerChoice] = []
    made: dict[nn.Module, nn.Module] = {}
    for layer in layers_of(copied, inputs):
        choice, replacement = _choose(layer, usable, settings)
        choices.append(choice)
        if replacement is not None:
            made[layer.module] = replacement
    found = replace_modules(copied, made)
    dense = plain_copy(network)
    gap = _difference(dense, found, inputs)
    compared = compare_latency(dense, found, inputs, repeats=repeats, seconds=4 * seconds) if made else None
    return SparseKernels(found, tuple(choices), skipped, compared, gap, torch.get_num_threads(), describe(inputs))


def _settings(formats: Sequence[str], min_gain: float, min_sparsity: float, repeats: int, seconds: float) -> _Settings:
    if isinstance(formats, str) or not formats:
        raise SparsewoodError(f"formats must be a sequence of some of {', '.join(FORMATS)}. Got {formats!r}.")
    for kind in formats:
        if kind not in FORMATS:
            raise UnknownName.among("format of sparse kernels", str(kind), FORMATS)
    if not min_gain > 0 or not 0 <= min_sparsity <= 1 or repeats < 1 or not seconds > 0:
        raise SparsewoodError(
            "sparse_kernels needs min_gain > 0, min_sparsity in [0, 1], repeats >= 1 and seconds > 0. Got "
            f"min_gain={min_gain}, min_sparsity={min_sparsity}, repeats={repeats}, seconds={seconds}."
        )
    return _Settings(tuple(dict.fromkeys(formats)), min_gain, min_sparsity, repeats, seconds)


def _choose(layer: Layer, formats: Sequence[str], settings: _Settings) -> tuple[LayerChoice, nn.Module | None]:
    weight = layer.weight
    sparsity = 1 - int(torch.count_nonzero(weight)) / max(weight.numel(), 1)

    def choice(reason: str, chosen: str = "dense", **more: Mapping[str, float]) -> LayerChoice:
        kind = type(layer.module).__name__
        return LayerChoice(layer.name, kind, tuple(weight.shape), sparsity, chosen, reason, **more)  # pyright: ignore

    if layer.why_not:
        return choice(layer.why_not), None
    if sparsity < settings.min_sparsity:
        return choice(f"its zeros are fewer than min_sparsity={settings.min_sparsity:g}"), None
    built, skipped = {"dense": layer.module}, {}
    for kind, build in _builders(layer, formats):
        try:
            made = build()
            _require_same(layer, made)
            built[kind] = made
        except Unsuitable as error:
            skipped[kind] = str(error)
        except (RuntimeError, NotImplementedError) as error:  # what PyTorch has no kernel for
            skipped[kind] = f"PyTorch cannot: {str(error).strip().splitlines()[0][:80]}"
    if len(built) == 1:
        return choice("no format could be tried", skipped=skipped), None
    seconds = _times(layer, built, settings)
    best = min(seconds, key=lambda kind: seconds[kind])
    fastest = min((kind for kind in seconds if kind != "dense"), key=lambda kind: seconds[kind])
    gain = seconds["dense"] / seconds[fastest]
    if best != "dense" and gain >= settings.min_gain:
        return choice(f"{gain:.2f}x", fastest, seconds=seconds, skipped=skipped), built[fastest]
    reason = f"{fastest} is {gain:.2f}x, less than {max(settings.min_gain, 1):g}x"
    return choice(reason, seconds=seconds, skipped=skipped), None


class Unsuitable(Exception):
    """A format that a layer's zeros do not fit."""


def _builders(layer: Layer, formats: Sequence[str]) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    for kind in formats:
        if kind == "csr":
            yield kind, lambda: _compressed(layer, None)
        elif kind == "bsr":
            for block in _BLOCKS:
                yield f"bsr {block}x{block}", lambda block=block: _compressed(layer, block)
        else:
            yield kind, lambda: _two_of_four(layer)


def _compressed(layer: Layer, block: int | None) -> nn.Module:
    module = layer.module
    matrix = layer.weight.flatten(1)
    if block is not None:
        rows, across = matrix.shape
        if rows % block or across % block:
            raise Unsuitable(f"{rows}x{across} does not divide into such blocks")
        blocks = matrix.reshape(rows // block, block, across // block, block).abs().amax((1, 3))
        share = float((blocks != 0).double().mean())
        if share > _FULL:
            raise Unsuitable(f"{share:.0%} of its blocks hold weights")
    if isinstance(module, nn.Linear):
        return SparseLinear(module, block)
    assert isinstance(module, nn.Conv2d)
    size = max(_patches(module, shape) for shape in layer.shapes) * layer.weight.element_size()
    if size > _MOST_PATCHES:
        raise Unsuitable(f"the patches of its input take {size:,} bytes")
    return SparseConv2d(module, block)


def _patches(module: nn.Conv2d, shape: tuple[int, ...]) -> int:
    places = math.prod(-(-size // step) for size, step in zip(shape[-2:], module.stride, strict=True))
    images = shape[0] if len(shape) == 4 else 1
    return images * places * module.in_channels * math.prod(module.kernel_size)


def _two_of_four(layer: Layer) -> nn.Module:
    if not isinstance(layer.module, nn.Linear):
        raise Unsuitable("only Linear has such a kernel")
    weight = layer.weight
    if weight.dtype not in (torch.float16, torch.bfloat16):
        raise Unsuitable(f"it needs float16 or bfloat16, and the weight is {weight.dtype}")
    if weight.shape[1] % 4 or int((weight.reshape(-1, 4) != 0).sum(1).max()) > 2:
        raise Unsuitable("more than two of four weights in a row are not zero; prune with NM(2, 4)")
    return SemiStructuredLinear(layer.module)


def _no_two_of_four(model: nn.Module) -> str:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    needs = "it needs an NVIDIA device of compute capability 8.0"
    if device.type != "cuda":
        return f"{needs}, and the network is on {device}"
    major, minor = torch.cuda.get_device_capability(device)
    return "" if major >= 8 else f"{needs}, and this one has {major}.{minor}"


# ---------------------------------------------------------------- measuring


def _times(layer: Layer, built: Mapping[str, nn.Module], settings: _Settings) -> dict[str, float]:
    """Medians, summed over the calls of one forward."""
    total = dict.fromkeys(built, 0.0)
    for shape, calls in layer.shapes.items():
        timed = time_in_turn(list(built.values()), _example(layer, shape), settings.repeats, 2, settings.seconds)
        for kind, latency in zip(built, timed, strict=True):
            total[kind] += calls * latency.median
    return total


def _example(layer: Layer, shape: tuple[int, ...]) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return values.to(layer.weight.device, layer.weight.dtype)


def _require_same(layer: Layer, made: nn.Module) -> None:
    x = _example(layer, next(iter(layer.shapes)))
    with torch.no_grad():
        expected, found = layer.module(x), made(x)
    if largest_difference(expected, found)[1] > math.sqrt(torch.finfo(expected.dtype).eps):
        raise Unsuitable("it computes something else")


def _difference(dense: nn.Module, sparse: nn.Module, inputs: Inputs) -> float:
    coarsest = Coarsest()
    with torch.no_grad(), untouched(dense), untouched(sparse):
        torch.default_generator.manual_seed(0)
        with coarsest:
            expected = named_tensors(call(dense, map_tensors(torch.clone, inputs)))
        torch.default_generator.manual_seed(0)
        found = named_tensors(call(sparse, map_tensors(torch.clone, inputs)))
    gaps = [largest_difference(one, two)[1] for (_, one), (_, two) in zip(expected, found, strict=True)]
    worst, allowed = max(gaps, default=0.0), math.sqrt(coarsest.eps)
    if not worst <= allowed:
        raise SparsewoodError(
            f"With sparse kernels {type(dense).__name__} computes something else: an output differs by {worst:.2g} of "
            f"its largest value; allowed is {allowed:.2g}. Its forward may be random in eval mode, or rounding may add "
            "up; keep the dense network."
        )
    return worst
