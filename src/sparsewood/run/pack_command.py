"""`sparsewood pack` and `sparsewood unpack`: a network from where it was saved to one small file, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.models.sources import load_model
from sparsewood.packing import PackReport, pack, unpack
from sparsewood.run.calls import Call, importable
from sparsewood.run.inspect_command import check_target, model_parameters
from sparsewood.run.inspect_units import network_of
from sparsewood.shrinking.files import PLAN, WEIGHTS, save

__all__ = ["pack_network", "unpack_network"]


def pack_network(source: Path, name: str, settings: Sequence[str], output: Path, *, most: int = 40) -> PackReport:
    """Pack the network at `source`, built as the model called `name`, into the file `output`, and print its table.

    `source` is a directory that `save`, `shrink` or a run wrote, or a file of weights. The table has the `most`
    tensors that take most bytes.

    Raises `SparsewoodError` if there is no such network or model, and where the file cannot be written.
    """
    if not source.exists():
        raise SparsewoodError(
            f"There is no network at '{source}'. Name a directory that sparsewood.save or a command of it "
            "wrote, or a file of weights (safetensors, or a state dict)."
        )
    if most < 1:
        raise SparsewoodError(f"--tensors must be a whole number >= 1. Got {most}.")
    check_target(output)  # what can be wrong is found out now
    with importable([Path.cwd()]):
        report = pack(_network(name, settings, source), output)
    print(report.table(most), "", "Written:", f"  {output}", sep="\n")
    return report


def unpack_network(file: Path, name: str, settings: Sequence[str], output: Path) -> nn.Module:
    """Write the network that was packed into `file`, of the model called `name`, to the directory `output`.

    Raises `SparsewoodError` if the file is damaged or of another model, and where the directory cannot be written.
    """
    with importable([Path.cwd()]):
        found = unpack(file, model=_network(name, settings, None))
        save(found, output)  # makes the directory, which is not left empty by a file that cannot be used
    tensors = found.state_dict()
    parameters = sum(parameter.numel() for parameter in found.parameters())
    print(f"{name}: {parameters:,} parameters, {len(tensors)} tensors", "", "Written:", sep="\n")
    print(*(f"  {output / written}" for written in (WEIGHTS, PLAN)), sep="\n")
    return found


def _network(name: str, settings: Sequence[str], source: Path | None) -> nn.Module:
    parameters = model_parameters(settings)
    if name.startswith("transformers:"):
        parameters.setdefault("task", "any")
    return network_of(Call(name, parameters, load_model, load_model), source)
