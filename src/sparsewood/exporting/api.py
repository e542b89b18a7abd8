"""`export`: a network as a file for other programs, read back and compared before it takes its place."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

from torch import nn

from sparsewood.errors import SparsewoodError, UnknownName, require_model
from sparsewood.exporting.comparing import Comparison, Run, compare
from sparsewood.exporting.formats import FORMATS, Contents, Format, Onnx, Program, State
from sparsewood.exporting.plain import plain_copy
from sparsewood.exporting.report import ExportReport
from sparsewood.files import writable_directory, write_atomically
from sparsewood.inputs import Inputs, map_tensors, to_model_device
from sparsewood.shrinking.copies import duplicate
from sparsewood.shrinking.shrink import Shrunk

__all__ = ["Kind", "export", "kind_of"]

Kind = Literal["onnx", "pt2", "safetensors", "pt"]


def export(
    model: nn.Module | Shrunk,
    path: str | os.PathLike[str],
    example_inputs: Inputs = None,
    *,
    format: Kind | None = None,
    dynamic_batch: bool = True,
    check: bool = True,
    tolerance: float | None = None,
    opset: int | None = None,
) -> ExportReport:
    """Write a network to a file that other programs read, and prove that the file computes the same.

    Args:
        model: a network, or what `shrink` returned. It is not changed: a copy in eval mode is exported, in which masks
            and parametrizations (`torch.nn.utils.prune` and the like) are carried out and gone.
        path: its ending says the format: .onnx; .pt2, a program of `torch.export`; .safetensors or .pt, the weights and
            buffers by name, without the network.
        example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs. What is no tensor becomes a
            part of the exported network. A state dict can be written without them.
        format: "onnx", "pt2", "safetensors" or "pt", whatever the ending.
        dynamic_batch: leave axis 0 of the first tensor, and of those that are as long there, open, in ONNX under the
            name "batch".
        check: read the file and run it beside the network: on the example inputs, on other values, and with
            dynamic_batch on a batch of one and one that is larger by one. ONNX is run by onnxruntime on the CPU.
        tolerance: the largest difference allowed, over the largest absolute value of an output; None: the square root
            of the step of the coarsest numbers that the network computes with (3.5e-4 in float32), and none for
            outputs of whole numbers.
        opset: the version of ONNX's operators; None: the one that PyTorch recommends.

    The file appears complete and checked, or not at all. ONNX and state dicts are written from the CPU, a program
    stays on the network's device. Tensors of ONNX from 2 GiB on are in a second file beside it, PATH.data.

    Raises `SparsewoodError` if the network cannot be exported, fixes the size of its batch, or what was written
    computes something else, and `OutputError` if the file cannot be written.

    >>> import tempfile, torch
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     report = export(network, f"{directory}/network.onnx", torch.randn(2, 3, 8, 8))
    >>> report.operators["Conv"], "BatchNormalization" in report.operators, report.inputs[0].shape
    (1, False, ('batch', 3, 8, 8))
    >>> report.max_relative_difference < 1e-4, [one.batch for one in report.differences]
    (True, [2, 1, 3, 3])
    """
    network = model.model if isinstance(model, Shrunk) else model
    require_model(network)
    target, real = Path(path), Path(path).resolve()
    kind = kind_of(target, format)
    _check_settings(kind, example_inputs, tolerance, opset)
    how = _format(kind, dynamic_batch, opset)
    copied = plain_copy(network) if kind == "pt2" else plain_copy(network).cpu()
    inputs = map_tensors(lambda tensor: tensor.detach().clone(), to_model_device(example_inputs, copied))
    opens = dynamic_batch and kind in ("onnx", "pt2")
    writable_directory(real.parent)
    found: list[ExportReport] = []

    def stage(temporary: Path) -> None:
        with TemporaryDirectory(dir=real.parent, prefix=f".{real.stem}-") as directory:
            staged = Path(directory) / real.name
            contents = how.write(copied, inputs, staged)
            report = _report(target, kind, contents, Path(directory), opens)
            if check:
                run = how.reader(staged, copied)
                report = _checked(report, how, _compare(network, run, kind, inputs, opens, tolerance))
            found.append(report)
            for other in Path(directory).iterdir():
                if other != staged:
                    other.replace(real.parent / other.name)
            staged.replace(temporary)

    write_atomically(target, stage)
    return found[0]


def kind_of(path: Path, format: str | None) -> Kind:
    """The format that is named, or that the ending of `path` stands for.

    >>> kind_of(Path("net.ONNX"), None), kind_of(Path("weights"), "pt")
    ('onnx', 'pt')
    """
    if format is None:
        if path.suffix.lower() not in FORMATS:
            raise SparsewoodError(
                f"The ending of '{path}' says no format. Use .onnx, .pt2 (torch.export), .safetensors or .pt (a state "
                "dict), or name it: format='onnx'."
            )
        format = FORMATS[path.suffix.lower()]
    for kind in get_args(Kind):
        if format == kind:
            return kind
    raise UnknownName.among("format", str(format), get_args(Kind))


def _check_settings(kind: str, example_inputs: Inputs, tolerance: float | None, opset: int | None) -> None:
    if example_inputs is None and kind in ("onnx", "pt2"):
        raise SparsewoodError(
            f"Exporting to {kind} runs the network. Give example_inputs: a tensor, a tuple of positional inputs, or a "
            "dict of keyword inputs."
        )
    if opset is not None and kind != "onnx":
        raise SparsewoodError(f"Only ONNX has an opset; the format is {kind}. Leave it out.")
    if tolerance is not None and not tolerance >= 0:
        raise SparsewoodError(f"tolerance must be a number >= 0. Got {tolerance!r}.")


def _format(kind: str, dynamic_batch: bool, opset: int | None) -> Format:
    if kind == "onnx":
        return Onnx(dynamic_batch, opset)
    return Program(dynamic_batch) if kind == "pt2" else State(kind == "safetensors")


def _compare(
    network: nn.Module, run: Run, kind: str, inputs: Inputs, batches: bool, tolerance: float | None
) -> Comparison | None:
    """Beside the network with its masks and parametrizations, since these were carried out for the file."""
    if inputs is None:
        return None
    copied = duplicate(network, double=False)
    return compare(copied if kind == "pt2" else copied.cpu(), run, inputs, batches=batches, tolerance=tolerance)


def _report(target: Path, kind: str, contents: Contents, directory: Path, dynamic_batch: bool) -> ExportReport:
    files = sorted(directory.iterdir(), key=lambda file: len(file.name))  # others have longer names
    home = target.resolve().parent if target.is_symlink() else target.parent
    return ExportReport(
        path=target,
        format=kind,
        bytes=sum(file.stat().st_size for file in files),
        tensors=contents.tensors,
        files=(target, *(home / file.name for file in files[1:])),
        opset=contents.opset,
        operators=contents.operators,
        inputs=contents.inputs,
        outputs=contents.outputs,
        dynamic_batch=dynamic_batch,
    )


def _checked(report: ExportReport, how: Format, compared: Comparison | None) -> ExportReport:
    if compared is None:
        return dataclasses.replace(report, engine=how.engine())
    return dataclasses.replace(
        report,
        engine=how.engine(),
        differences=compared.differences,
        tolerance=compared.tolerance,
        notes=compared.notes,
    )
