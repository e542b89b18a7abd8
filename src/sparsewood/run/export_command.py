"""`sparsewood export`: a network from where it was saved to a file for other programs, checked against PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.exporting import ExportReport, export, sparse_kernels
from sparsewood.exporting.api import Kind, kind_of
from sparsewood.models.examples import example_inputs, inputs_of_shapes
from sparsewood.models.sources import load_model
from sparsewood.run.calls import Call, importable
from sparsewood.run.inspect_command import check_target, model_parameters
from sparsewood.run.inspect_units import network_of

__all__ = ["ExportSettings", "export_network"]


@dataclass(frozen=True)
class ExportSettings:
    """How it is written; see `exporting.export`. `kernels` are formats of `sparse_kernels`, measured as well."""

    format: Kind | None = None
    dynamic_batch: bool = True
    tolerance: float | None = None
    opset: int | None = None
    kernels: Sequence[str] = ()


def export_network(
    source: Path | None,
    name: str,
    parameters: Sequence[str],
    output: Path,
    *,
    shapes: Sequence[str] = (),
    settings: ExportSettings = ExportSettings(),
) -> ExportReport:
    """Write the network at `source`, built as the model called `name` with `parameters`, to the file `output`.

    `source` is a directory that `save`, `shrink` or a run wrote, or a file of weights; None for the model as it is
    built, which is of use with published weights. `shapes` are those of its inputs; without them the model's library
    says what it takes.

    Raises `SparsewoodError` if there is no such network or model, where nothing says what inputs it takes, if it cannot
    be exported, and where the file cannot be written.
    """
    if source is not None and not source.exists():
        raise SparsewoodError(
            f"There is no network at '{source}'. Name a directory that sparsewood.save or a command of it "
            "wrote, or a file of weights (safetensors, or a state dict)."
        )
    kind = kind_of(output, settings.format)
    check_target(output)  # what can be wrong is found out now
    given = model_parameters(parameters)
    if name.startswith("transformers:"):
        given.setdefault("task", "any")
    with importable([Path.cwd()]):
        model = network_of(Call(name, given, load_model, load_model), source)
        inputs = _inputs(model, name, given, shapes, needed=kind in ("onnx", "pt2") or bool(settings.kernels))
        report = export(
            model,
            output,
            inputs,
            format=kind,
            dynamic_batch=settings.dynamic_batch,
            tolerance=settings.tolerance,
            opset=settings.opset,
        )
        print(report)
        print("", "Written:", *(f"  {path}" for path in report.files), sep="\n")
        if settings.kernels:
            print("", sparse_kernels(model, inputs, formats=settings.kernels), sep="\n")
    return report


def _inputs(model: nn.Module, name: str, parameters: Mapping[str, Any], shapes: Sequence[str], *, needed: bool) -> Any:
    if shapes:
        return inputs_of_shapes(model, shapes)
    try:
        return example_inputs(model, name, **parameters)
    except SparsewoodError:
        if needed:
            raise
        return None  # weights are compared as they are
