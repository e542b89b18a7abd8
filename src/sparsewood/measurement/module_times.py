"""Where the time of one forward pass goes: seconds that each module itself takes, without the modules inside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.inputs import Inputs, call, to_model_device
from sparsewood.measurement.layer_times import clock_for
from sparsewood.snapshot import untouched

__all__ = ["ModuleTimes", "call_overhead", "module_times"]


@dataclass(frozen=True)
class ModuleTimes:
    """`total` seconds of a forward pass; `own` those of each module by name, "" for what lies outside of them.

    `inputs[name]` holds the first tensor that entered each call of a module: its shape, and whether its channels are
    last in memory.
    """

    total: float
    own: Mapping[str, float]
    inputs: Mapping[str, Sequence[tuple[tuple[int, ...], bool]]]


def module_times(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    repeats: int = 8,
    seconds: float = 20.0,
    clock: Callable[[], float] | None = None,
) -> ModuleTimes:
    """Seconds of `model(example_inputs)` in eval mode without gradients, and of its modules: the best of `repeats`.

    Passes that time modules alternate with passes that time only the whole; after `seconds` no more begin. With one
    thread on the CPU it is the time of that thread (see `layer_times.clock_for`), which other work disturbs least.

    >>> times = module_times(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.ones(1, 2), repeats=2)
    >>> sorted(times.own), times.inputs["1"]
    (['', '0', '1'], [((1, 3), False)])
    """
    device = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))
    clock = clock or clock_for(device)
    watch = _Watch(model, _with_synchronisation(clock, model))
    deadline = clock() + seconds
    with torch.no_grad(), untouched(model):
        inputs = to_model_device(example_inputs, model)
        call(model, inputs)
        total = math.inf
        for number in range(repeats):
            total = min(total, watch.whole(inputs))
            watch.once(inputs, keep_inputs=number == 0)
            if clock() > deadline:
                break
    return ModuleTimes(total, watch.best, watch.inputs)


def call_overhead(*, repeats: int = 15, clock: Callable[[], float] | None = None) -> float:
    """Seconds for calling a module that has next to nothing to do, in between other work on the CPU.

    Half of what a ReLU and a BatchNorm of one number take, after caches were filled with something else.

    >>> 0 < call_overhead() < 0.1
    True
    """
    pair = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(1)).eval()
    clock = clock or clock_for(torch.device("cpu"))
    number, elsewhere, best = torch.zeros(1, 1, 1, 1), torch.ones(1 << 22), math.inf
    with torch.no_grad():
        for _ in range(repeats):
            elsewhere.sum()
            before = clock()
            pair(number)
            best = min(best, clock() - before)
    return best / 2


class _Watch:
    """Times modules by what happens between entering and leaving them."""

    def __init__(self, model: nn.Module, clock: Callable[[], float]) -> None:
        self.model, self.clock = model, clock
        self.names = {id(module): name for name, module in model.named_modules()}
        self.best: dict[str, float] = {}
        self.inputs: dict[str, list[tuple[tuple[int, ...], bool]]] = {}

    def whole(self, inputs: Inputs) -> float:
        before = self.clock()
        call(self.model, inputs)
        return self.clock() - before

    def once(self, inputs: Inputs, *, keep_inputs: bool) -> None:
        own: dict[str, float] = {}
        with self._hooked(own, keep_inputs):
            call(self.model, inputs)
        for name, value in own.items():
            self.best[name] = min(self.best.get(name, math.inf), value)

    @contextmanager
    def _hooked(self, own: dict[str, float], keep_inputs: bool) -> Iterator[None]:
        running: list[str] = []
        last = [0.0]

        def charge() -> None:
            now = self.clock()
            if running:
                own[running[-1]] = own.get(running[-1], 0.0) + now - last[0]
            last[0] = now

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            charge()
            name = self.names[id(module)]
            running.append(name)
            if keep_inputs:
                self._note(name, args, kwargs)
            last[0] = self.clock()

        def leave(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
            charge()
            running.pop()
            last[0] = self.clock()

        with ExitStack() as stack:
            for module in self.model.modules():
                stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(leave).remove)
            yield

    def _note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next((value for value in chain(args, kwargs.values()) if isinstance(value, Tensor)), None)
        if first is not None:
            self.inputs.setdefault(name, []).append((tuple(first.shape), _channels_last(first)))


def _channels_last(tensor: Tensor) -> bool:
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    return layout is not None and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=layout)


def _with_synchronisation(clock: Callable[[], float], model: nn.Module) -> Callable[[], float]:
    tensors = chain(model.parameters(), model.buffers())
    devices = {tensor.device for tensor in tensors if tensor.device.type not in {"cpu", "meta"}}
    if not devices:
        return clock

    def after_all() -> float:
        for device in devices:
            torch.accelerator.synchronize(device)
        return clock()

    return after_all
