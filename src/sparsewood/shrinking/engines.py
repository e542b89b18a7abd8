"""What runs networks: PyTorch as it is, or onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from sparsewood.inputs import Inputs, call, to_model_device
from sparsewood.measurement import onnx_times
from sparsewood.measurement.layer_times import Layer, best_of, clock_for, machine, time_eagerly
from sparsewood.measurement.module_times import ModuleTimes, call_overhead, module_times
from sparsewood.shrinking.copies import duplicate

__all__ = ["Eager", "Engine", "OnnxRuntime"]


@runtime_checkable
class Engine(Protocol):
    """What runs networks: how long it takes for one layer, and for a whole network and its modules."""

    def machine(self, device: torch.device) -> Mapping[str, str]:
        """What its times depend on; see `layer_times.machine`."""
        ...

    def layer(self, layer: Layer, sizes: tuple[int, ...]) -> float:
        """Seconds for a layer of these sizes."""
        ...

    def modules(self, model: nn.Module, example_inputs: Inputs) -> ModuleTimes:
        """Seconds for the network, and for each of its modules as far as that is known."""
        ...

    def ready(self, model: nn.Module, example_inputs: Inputs) -> Callable[[], object]:
        """What runs the network in eval mode, once each time that it is called."""
        ...

    def overhead(self) -> float:
        """Seconds for calling a module that does next to nothing."""
        ...


@dataclass(frozen=True)
class Eager:
    """PyTorch as it is."""

    def machine(self, device: torch.device) -> Mapping[str, str]:
        """PyTorch's version, processor, device, threads."""
        return machine("eager", {"torch": torch.__version__}, device)

    def layer(self, layer: Layer, sizes: tuple[int, ...]) -> float:
        """The layer alone, best of a few repeats."""
        return time_eagerly(layer, sizes)

    def modules(self, model: nn.Module, example_inputs: Inputs) -> ModuleTimes:
        """Whole passes, and what each module takes of one."""
        return module_times(model, example_inputs)

    def ready(self, model: nn.Module, example_inputs: Inputs) -> Callable[[], object]:
        """A copy of the network, without gradients."""
        copied, inputs = duplicate(model, double=False).eval(), to_model_device(example_inputs, model)

        def run() -> object:
            with torch.no_grad():
                return call(copied, inputs)

        return run

    def overhead(self) -> float:
        """See `module_times.call_overhead`."""
        return call_overhead()


@dataclass(frozen=True)
class OnnxRuntime:
    """onnxruntime on the CPU, where the network is exported first; what its modules take is not known."""

    def machine(self, device: torch.device) -> Mapping[str, str]:  # noqa: ARG002
        """onnxruntime's version, processor, threads."""
        return machine("onnxruntime", onnx_times.versions())

    def layer(self, layer: Layer, sizes: tuple[int, ...]) -> float:
        """A graph of one node, best of a few repeats."""
        return onnx_times.time_in_onnxruntime(layer, sizes)

    def modules(self, model: nn.Module, example_inputs: Inputs) -> ModuleTimes:
        """The exported network; the sizes of what enters its modules are those in PyTorch."""
        inputs = module_times(model, example_inputs, repeats=1).inputs
        run = self.ready(model, example_inputs)
        return ModuleTimes(best_of(run, repeats=10, seconds=5.0, clock=clock_for(torch.device("cpu"))), {}, inputs)

    def ready(self, model: nn.Module, example_inputs: Inputs) -> Callable[[], object]:
        """The network, exported from a copy."""
        return onnx_times.in_onnxruntime(duplicate(model, double=False), example_inputs)

    def overhead(self) -> float:
        """Modules are not called."""
        return 0.0
