"""How long single layers take on this machine at other widths: measured where asked for, kept in a file.

A layer is described by its `sizes`, the factors of its multiply-adds: (batch, places, channels, inner channels, places
of the kernel) of a convolution, (..., rows, summed, columns) of a matrix product.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sparsewood.errors import OutputError
from sparsewood.files import write_atomically

__all__ = [
    "Convolution",
    "Layer",
    "LayerTimer",
    "Product",
    "TimeFile",
    "TimeTable",
    "best_of",
    "cache_directory",
    "clock_for",
    "fitting_step",
    "levels",
    "machine",
    "time_eagerly",
]

Sizes = tuple[int, ...]
logger = logging.getLogger(__name__)


# ---------------------------------------------------------------- layers


class Layer(Protocol):
    """What of a layer does not change with its sizes."""

    def key(self, sizes: Sizes) -> str:
        """A text that says all that its time depends on."""
        ...

    def build(self, sizes: Sizes) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
        """A function and the tensors that it takes: the input first, then weight and bias."""
        ...


LayerTimer = Callable[[Layer, Sizes], float]
"""Seconds for a layer of these sizes."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution of an input with the spatial sizes `space`; `made` output channels belong to one of its `groups`.

    Its sizes are (batch, places, channels, inner, kernel): of a transposed one `channels` are those of the input and
    `inner` those of the output in a group, of another one the other way round. At fewer channels and the whole `inner`
    there are fewer groups, at a smaller `inner` all groups are there and narrower.
    """

    space: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    channels: int
    inner: int
    transposed: bool
    bias: bool
    channels_last: bool
    dtype: torch.dtype
    device: str

    def key(self, sizes: Sizes) -> str:
        """For example "conv 1x64x56x56 64 k3x3 s1x1 p1x1 d1x1 g1 bias=False last=False float32 cpu"."""
        groups, reads, makes = self.widths(sizes)
        name = "transposed" if self.transposed else "conv"
        plain = zip("kspd", (self.kernel, self.stride, self.padding, self.dilation), strict=True)
        settings = " ".join(f"{letter}{_by(values)}" for letter, values in plain)
        return (
            f"{name} {_by((sizes[0], reads, *self.space))} {makes} {settings} g{groups} bias={self.bias} "
            f"last={self.channels_last} {_short(self.dtype)} {self.device}"
        )

    def widths(self, sizes: Sizes) -> tuple[int, int, int]:
        """How many groups, channels of the input, channels of the output there are at these sizes."""
        _, _, channels, inner, _ = sizes
        each = max(self.channels // self.groups, 1)
        groups = self.groups
        if inner == self.inner and self.groups > 1:
            groups = max(math.ceil(channels / each), 1)
        else:
            each = max(math.ceil(channels / self.groups), 1)
        outer, inner = groups * each, groups * inner
        return (groups, outer, inner) if self.transposed else (groups, inner, outer)

    def build(self, sizes: Sizes) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
        """The convolution, its input, weight and bias."""
        groups, reads, makes = self.widths(sizes)
        places = {"dtype": self.dtype, "device": self.device}
        x = torch.full((sizes[0], reads, *self.space), 0.5, **places)
        weight_axes = (reads, makes // groups) if self.transposed else (makes, reads // groups)
        weight = torch.full((*weight_axes, *self.kernel), 0.01, **places)
        if self.channels_last:
            layout = torch.channels_last if len(self.space) == 2 else torch.channels_last_3d
            x, weight = x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
        settings = (self.stride, self.padding, self.dilation, groups)

        def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            stride, padding, dilation, groups = settings
            still = [0] * len(stride)
            return torch.convolution(x, weight, bias, stride, padding, dilation, self.transposed, still, groups)

        return run, (x, weight, *((torch.full((makes,), 0.5, **places),) if self.bias else ()))


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product [..., m, k] x [..., k, n], of sizes (..., m, k, n).

    `linear`: the right one is a weight [n, k] as of `nn.Linear`, with a bias if `bias`.
    """

    linear: bool
    bias: bool
    dtype: torch.dtype
    device: str

    def key(self, sizes: Sizes) -> str:
        """For example "linear 1x512 1000 bias=True float32 cpu"."""
        name = "linear" if self.linear else "product"
        return f"{name} {_by(sizes[:-1])} {sizes[-1]} bias={self.bias} {_short(self.dtype)} {self.device}"

    def build(self, sizes: Sizes) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
        """The product and its operands."""
        *batch, rows, summed, columns = sizes
        places = {"dtype": self.dtype, "device": self.device}
        left = torch.full((*batch, rows, summed), 0.5, **places)
        if not self.linear:
            return torch.matmul, (left, torch.full((*batch, summed, columns), 0.01, **places))
        bias = (torch.full((columns,), 0.5, **places),) if self.bias else ()
        return F.linear, (left, torch.full((columns, summed), 0.01, **places), *bias)


def _by(values: Sequence[int]) -> str:
    return "x".join(map(str, values))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---------------------------------------------------------------- clocks


def time_eagerly(layer: Layer, sizes: Sizes) -> float:
    """Seconds that PyTorch takes for a layer of these sizes, without gradients: the best of a few repeats."""
    with torch.no_grad():
        run, tensors = layer.build(sizes)
        accelerator = tensors[0].device.type != "cpu"

        def once() -> None:
            run(*tensors)
            if accelerator:
                torch.accelerator.synchronize(tensors[0].device)

        return best_of(once, clock=clock_for(tensors[0].device))


def clock_for(device: torch.device) -> Callable[[], float]:
    """The clock that other work on the machine disturbs least: with one thread on the CPU, the time of this thread.

    >>> with_one_thread = torch.get_num_threads() == 1
    >>> (clock_for(torch.device("cpu")) is time.thread_time) == with_one_thread
    True
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


def best_of(
    run: Callable[[], object],
    *,
    repeats: int = 30,
    minimum: int = 5,
    seconds: float = 0.02,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The shortest of at most `repeats` times of `run()`, after one that is not timed.

    After `minimum` it stops as soon as `seconds` have gone by. The shortest is what other work on the machine disturbs
    least.

    >>> ticks = iter([0.0, 0.0, 0.3, 0.3, 0.5, 0.5, 0.9, 0.9, 1.0])
    >>> round(best_of(lambda: None, repeats=4, clock=lambda: next(ticks)), 6)
    0.1
    """
    run()
    start, best = clock(), math.inf
    for count in range(1, repeats + 1):
        before = clock()
        run()
        after = clock()
        best = min(best, after - before)
        if count >= minimum and after - start >= seconds:
            break
    return best


# ---------------------------------------------------------------- tables


def fitting_step(size: int, step: int) -> int:
    """`step`, halved until at least eight of it fit into `size`: widths of an axis are tried at its multiples.

    >>> [fitting_step(size, 16) for size in (512, 64, 24, 6, 1)]
    [16, 8, 2, 1, 1]
    """
    while step > 1 and size < 8 * step:
        step //= 2
    return step


def levels(size: int, step: int, count: int = 16) -> np.ndarray:
    """Widths at which a table is measured: about `count` equally far apart, some below the first, and `size` itself.

    >>> levels(100, 16), levels(500, 8, 4)
    (array([ 16,  32,  48,  64,  80,  96, 100]), array([  8,  16,  32,  64, 128, 256, 384, 500]))
    """
    apart = step
    while size > count * apart:
        apart *= 2
    below = range(int(math.log2(apart // step)))
    return np.array([*(step * 2**power for power in below), *range(apart, size, apart), size], np.int64)


class TimeTable:
    """Times of one layer of the given `sizes` at other widths of some factors, interpolated linearly along each.

    `steps[axis]` are the factors that vary, and the multiples at which each is measured (at most about 16, see
    `levels`). What is needed of the table is measured when it is asked for. A width between multiples takes as long as
    the next one, which is less than it takes in truth; below the first level, as long as there. The other factors count
    in proportion.

    >>> table = TimeTable(
    ...     Product(True, True, torch.float32, "cpu"), (1, 64, 128), {1: 16, 2: 16}, lambda _, sizes: prod(sizes)
    ... )
    >>> table.seconds((1, 64, 128)), table.seconds((1, 32, 72)), table.seconds((1, 30, 5))
    (8192.0, 2560.0, 512.0)
    """

    def __init__(self, layer: Layer, sizes: Sizes, steps: Mapping[int, int], timer: LayerTimer) -> None:
        self.layer, self.sizes, self.steps, self._timer = layer, sizes, dict(steps), timer
        self._levels = {axis: levels(sizes[axis], step) for axis, step in steps.items()}
        self._others = [axis for axis in range(len(sizes)) if axis not in steps]
        self._points: dict[Sizes, float] = {}
        self._known: dict[Sizes, float] = {}

    @cached_property
    def dense(self) -> float:
        """Seconds at full width."""
        return self.seconds(self.sizes)

    def seconds(self, sizes: Sizes) -> float:
        """Seconds at these sizes; 0 if one of them is."""
        found = self._known.get(sizes)
        if found is None:
            found = self._known[sizes] = self._interpolated(sizes) if all(sizes) else 0.0
        return found

    def _interpolated(self, sizes: Sizes) -> float:
        corners = [
            _between(self._levels[axis], min(-(-sizes[axis] // step) * step, self.sizes[axis]))
            for axis, step in self.steps.items()
        ]
        total = 0.0
        for chosen in product(*corners):
            share = prod(weight for _, weight in chosen)
            if share:
                total += share * self._at([width for width, _ in chosen])
        return total * prod(sizes[axis] / self.sizes[axis] for axis in self._others)

    def _at(self, widths: Sequence[int]) -> float:
        sizes = list(self.sizes)
        for axis, width in zip(self.steps, widths, strict=True):
            sizes[axis] = width
        point = tuple(sizes)
        if point not in self._points:
            self._points[point] = self._timer(self.layer, point)
        return self._points[point]


def _between(known: np.ndarray, width: int) -> list[tuple[int, float]]:
    """The levels around a width, and how much each of them counts."""
    above = int(np.searchsorted(known, width))
    if above == 0 or known[above] == width:
        return [(int(known[above]), 1.0)]
    low, high = int(known[above - 1]), int(known[above])
    share = (width - low) / (high - low)
    return [(low, 1.0 - share), (high, share)]


# ---------------------------------------------------------------- on disk


def cache_directory() -> Path:
    """Where times are kept: `$SPARSEWOOD_CACHE`, else `~/.cache/sparsewood`."""
    return Path(os.environ.get("SPARSEWOOD_CACHE") or Path.home() / ".cache" / "sparsewood")


def machine(engine: str, versions: Mapping[str, str], device: torch.device | str = "cpu") -> dict[str, str]:
    """What times depend on beside the layer: engine, versions, processor, device, threads."""
    return {
        "engine": engine,
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "processor": _processor(),
        "device": _device_name(torch.device(device)),
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class TimeFile:
    """Seconds of layers on one kind of machine, by `Layer.key`, in a JSON file in `directory` (`None`: in memory).

    Called like the timer that it asks for what it does not know. `save()` adds what is new to the file. A file that
    cannot be read, or is no such file, counts as empty and is written anew; one that cannot be written is left.
    """

    def __init__(self, timer: LayerTimer, about: Mapping[str, str], directory: str | os.PathLike[str] | None) -> None:
        self._timer, self._about = timer, dict(about)
        self.path = None if directory is None else Path(directory) / _file_name(self._about)
        self._seconds = self._read()
        self._new: dict[str, float] = {}

    def __call__(self, layer: Layer, sizes: Sizes) -> float:
        key = layer.key(sizes)
        if key not in self._seconds:
            self._seconds[key] = self._new[key] = self._timer(layer, sizes)
        return self._seconds[key]

    def save(self) -> None:
        """Write what was measured since the last time, beside what others wrote meanwhile."""
        if self.path is None or not self._new:
            return
        content = {"format": 1, "machine": self._about, "seconds": {**self._read(), **self._new}}
        text = json.dumps(content, indent=1, sort_keys=True)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, lambda path: path.write_text(text, encoding="utf-8"))
        except (OSError, OutputError) as error:
            logger.warning("Times of layers are not kept for the next time: %s", error)
            return
        self._new.clear()

    def _read(self) -> dict[str, float]:
        if self.path is None or not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            logger.warning("'%s' cannot be read, layers are measured again: %s", self.path, error)
            return {}
        found = self._times_in(content)
        if found is None:
            logger.warning("'%s' holds no times of layers on this machine, they are measured again.", self.path)
        return found or {}

    def _times_in(self, content: Any) -> dict[str, float] | None:
        if not isinstance(content, dict) or content.get("format") != 1 or content.get("machine") != self._about:
            return None
        seconds = content.get("seconds")
        if not isinstance(seconds, dict):
            return None
        numbers = {key: value for key, value in seconds.items() if isinstance(value, float) and 0 < value < math.inf}
        return numbers if len(numbers) == len(seconds) else None


def _file_name(about: Mapping[str, str]) -> str:
    digest = sha256(json.dumps(dict(about), sort_keys=True).encode()).hexdigest()
    return f"layer-times-{about.get('engine', 'eager')}-{digest[:12]}.json"
