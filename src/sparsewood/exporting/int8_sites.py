"""The places of an exported network where a constant weight is multiplied or looked up, and whose weights they are."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sparsewood.onnx_graph import package
from sparsewood.parameters import entries

__all__ = ["Site", "apart", "batchnorms", "sites"]

_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1, 0),
    "MatMul": (1, 0),
    "Gather": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
"""By operator the operands that can be a weight."""

_RECURRENT = ("LSTM", "GRU", "RNN")

_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Site:
    """A node of the graph and one of its constant weights.

    Attributes:
        name: what to call it: the parameter if it is known, else the module and the constant.
        node: the node's name.
        operator: as ONNX calls it, such as "Gemm".
        operand: which of its inputs the weight is.
        weight: the name of the constant.
        module: the name of the network's module that it belongs to; "" for the network itself.
        parameters: the parameters that the weight can be made of, by their first names.
        shape: of the constant.
        transposed: of a Gemm: whether outputs come first.
        groups: of a convolution.
    """

    name: str
    node: str
    operator: str
    operand: int
    weight: str
    module: str
    parameters: tuple[str, ...]
    shape: tuple[int, ...]
    transposed: bool = False
    groups: int = 1

    @property
    def axis(self) -> int | None:
        """The axis of the outputs, for a weight that can have a scale for each; None where there is no such axis."""
        if self.operator == "Conv" or (self.operator == "Gemm" and self.transposed):
            return 0
        if self.operator == "ConvTranspose":
            return 1 if self.groups == 1 else None
        return 1 if self.operator in ("Gemm", "MatMul") and len(self.shape) == 2 and self.operand == 1 else None


def sites(model: Any, network: nn.Module) -> list[Site]:
    """All of them in a model exported from `network`, in the order of the graph."""
    onnx = package("onnx")
    constants = {
        one.name: one
        for one in model.graph.initializer
        if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) >= 2
    }
    names = _Names(network)
    found = []
    for node in model.graph.node:
        settings = {one.name: one.i for one in node.attribute}
        operands = [i for i in _WEIGHTS.get(node.op_type, ()) if i < len(node.input) and node.input[i] in constants]
        module = names.module(node)
        layer = names.layer(node, module) if operands else 0
        for operand in operands:
            weight = node.input[operand]
            made_of = names.made_of(node, module, operand, layer, constants[weight])
            found.append(
                Site(
                    name=" and ".join(made_of) if made_of else f"{module}:{weight}".lstrip(":"),
                    node=node.name,
                    operator=node.op_type,
                    operand=operand,
                    weight=weight,
                    module=made_of[0].rpartition(".")[0] if made_of else module,
                    parameters=tuple(names.first[name] for name in made_of),
                    shape=tuple(constants[weight].dims),
                    transposed=bool(settings.get("transB", 0)) and node.op_type == "Gemm",
                    groups=settings.get("group", 1),
                )
            )
    return found


def apart(model: Any, found: Sequence[Site]) -> list[Site]:
    """The sites, once weights that are used in several ways have, in `model`, a constant for each of them.

    onnxruntime's tools do not look who else reads a constant that they turn, or give scales along an axis.
    """
    graph = model.graph
    ways = {(site.node, site.operand): (site.operator, site.operand, site.axis, site.transposed) for site in found}
    constants = {one.name: one for one in graph.initializer}
    weights = {site.weight for site in found}
    owners: dict[tuple[str, object], str] = {}
    names: dict[tuple[str, int], str] = {}
    for node in graph.node:
        for place, weight in enumerate(node.input):
            if weight not in weights:
                continue
            used = sum(name == weight for name, _ in owners)
            own = owners.setdefault((weight, ways.get((node.name, place))), f"{weight}/{used}" if used else weight)
            if own not in constants:
                constants[own] = graph.initializer.add()
                constants[own].CopyFrom(constants[weight])
                constants[own].name = own
            node.input[place] = names[node.name, place] = own
    return [replace(site, weight=names[site.node, site.operand]) for site in found]


def batchnorms(model: Any, network: nn.Module) -> set[str]:
    """The modules of `network` of which the exported model still has the BatchNorm."""
    names = _Names(network)
    return {names.module(node) for node in model.graph.node if node.op_type == "BatchNormalization"}


class _Names:
    """Whose the steps and constants of an exported network are."""

    def __init__(self, network: nn.Module) -> None:
        self.modules = {name for name, _ in network.named_modules(remove_duplicate=False)}
        self.parameters = dict(network.named_parameters(remove_duplicate=False))
        self.first = {name: one.name for one in entries(network) for name in (one.name, *one.aliases)}
        self.seen: dict[str, int] = {}

    def module(self, node: Any) -> str:
        """The innermost module in which the exporter says that the node arose."""
        scopes = {one.key: one.value for one in node.metadata_props}
        try:
            names = ast.literal_eval(scopes[_SCOPES])
        except (KeyError, ValueError, SyntaxError):
            return ""
        # The last of them is the operation itself.
        return next((name for name in reversed(names[:-1]) if name in self.modules), "")

    def layer(self, node: Any, module: str) -> int:
        """Of recurrent modules: how many nodes of the module came before, which are its lower layers."""
        if node.op_type not in _RECURRENT:
            return 0
        self.seen[module] = self.seen.get(module, -1) + 1
        return self.seen[module]

    def made_of(self, node: Any, module: str, operand: int, layer: int, constant: Any) -> list[str]:
        """The parameters that a constant was made of, as far as can be told."""
        under = f"{module}." if module else ""
        if constant.name in self.parameters:
            return [self._own(constant.name, under)]
        if node.op_type in _RECURRENT:
            name = f"{under}{'weight_ih_l' if operand == 1 else 'weight_hh_l'}{layer}"
            return [one for one in (name, f"{name}_reverse") if one in self.parameters]
        values = torch.from_numpy(package("onnx").numpy_helper.to_array(constant).copy())
        turned = values.transpose(-1, -2)
        for name, parameter in self.parameters.items():
            if name.startswith(under) and (torch.equal(parameter, values) or torch.equal(parameter, turned)):
                return [name]
        # Computed from what is there, as under an old weight normalisation.
        direct = [n for n, p in self.parameters.items() if n.rpartition(".")[0] == module and p.ndim >= 2]
        return [name for name in direct if self.parameters[name].numel() == values.numel()]

    def _own(self, weight: str, under: str) -> str:
        """The exporter keeps one of constants with the same values, under the first one's name: the node's own name."""
        if weight.startswith(under):
            return weight
        parameter = self.parameters[weight]
        for name, other in self.parameters.items():
            if name.startswith(under) and (other is parameter or torch.equal(other, parameter)):
                return name
        return weight
