"""What runs networks: PyTorch as it is, or onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from sparsewood.inputs import Inputs
from sparsewood.measurement import onnx_times
from sparsewood.measurement.layer_times import Layer, machine, time_eagerly
from sparsewood.measurement.module_times import ModuleTimes, call_overhead, module_times

__all__ = ["Eager", "Engine", "OnnxRuntime"]


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

    def overhead(self) -> float:
        """Seconds for calling a module that does next to nothing."""
        ...


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

    def overhead(self) -> float:
        """See `module_times.call_overhead`."""
        return call_overhead()


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
        return ModuleTimes(onnx_times.model_in_onnxruntime(model, example_inputs), {}, inputs)

    def overhead(self) -> float:
        """Modules are not called."""
        return 0.0
