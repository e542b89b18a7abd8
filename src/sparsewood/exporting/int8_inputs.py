"""What a network of 8 bits is called with: calibration batches, and inputs in the order of the ONNX model's."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsewood.batches import Batch, require_batches, split_batch
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import Inputs, arguments, map_tensors

__all__ = ["Order", "calibration_inputs", "on_cpu"]


@dataclass(frozen=True)
class Order:
    """The order of a network's inputs, however they are passed: by position or by name, in any order of names.

    Attributes:
        parameters: those of the network's forward that can be given by position.
        traced: the inputs with tensors, as the network was exported with them.
    """

    parameters: tuple[str, ...]
    traced: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module, example_inputs: Inputs) -> Order:
        """That of a model exported with these inputs."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        signature = inspect.signature(model.forward).parameters.values()
        parameters = tuple(one.name for one in signature if one.kind in kinds)
        return cls(parameters, tuple(_named(parameters, *arguments(example_inputs))))

    def sort(self, positional: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[Any, ...]:
        """The inputs that hold tensors, as the ONNX model has them; raises `SparsewoodError` if they are others.

        >>> import torch
        >>> Order(("x", "y"), ("x", "y")).sort((), {"y": torch.ones(1), "x": torch.zeros(1)})
        (tensor([0.]), tensor([1.]))
        """
        given = _named(self.parameters, positional, keywords)
        if set(given) != set(self.traced):
            raise SparsewoodError(
                f"The network of 8 bits takes {len(self.traced)} tensors, as it was made with: "
                f"{', '.join(self.traced)}. Got {', '.join(given) or 'none'}."
            )
        return tuple(given[name] for name in self.traced)


def calibration_inputs(calibration: Iterable[Batch] | None, *, needed: bool) -> list[Inputs]:
    """What the model is called with, batch by batch, on the CPU."""
    if calibration is None:
        if needed:
            raise SparsewoodError(
                "quantize_int8 needs calibration data for activations=Static(): a few batches, as a list or a "
                "DataLoader. Linear and LSTM layers can do without: activations=Dynamic()."
            )
        return []
    require_batches(calibration)
    found = [on_cpu(split_batch(batch, number)[0]) for number, batch in enumerate(calibration)]
    if not found:
        raise SparsewoodError(
            "quantize_int8: the calibration data is empty: no batch was read. A generator that was used up before is "
            "empty, too."
        )
    return found


def on_cpu(inputs: Inputs) -> Inputs:
    """The inputs without gradients, on the CPU."""
    return map_tensors(lambda tensor: tensor.detach().cpu(), inputs)


def _named(parameters: tuple[str, ...], positional: tuple[Any, ...], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs that hold tensors, by name; those that a forward takes as *args by number."""
    names = [*parameters, *(f"input {place}" for place in range(len(parameters), len(positional)))]
    given = dict(zip(names, positional, strict=False))
    if twice := given.keys() & keywords.keys():
        raise SparsewoodError(f"The network of 8 bits got {', '.join(sorted(twice))} by position and by name.")
    given.update(keywords)
    return {name: value for name, value in given.items() if any(isinstance(one, Tensor) for one in tree_leaves(value))}
