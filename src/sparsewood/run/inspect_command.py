"""`sparsewood inspect`: what hangs together in a model, what can be removed, and why the rest stays."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, Literal

import torch
from torch import nn

from sparsewood.errors import OutputError, SparsewoodError
from sparsewood.files import writable_directory, write_atomically
from sparsewood.models.examples import example_inputs, inputs_of_shapes
from sparsewood.models.sources import load_model
from sparsewood.run import yamlfile
from sparsewood.run.calls import Call, importable
from sparsewood.structure import Structure, trace

__all__ = ["Files", "check_target", "inspect_model", "model_parameters"]

_LARGE = 1_000_000_000
"""Of transformers with more parameters than this no weights are made."""


@dataclass(frozen=True)
class Files:
    """Where the structure is written, besides the table; `json` may be "-", standard output."""

    json: str | None = None
    svg: Path | None = None
    dot: Path | None = None


def inspect_model(
    name: str,
    settings: Sequence[str] = (),
    *,
    shapes: Sequence[str] = (),
    attention: Literal["heads", "head_dims"] = "heads",
    explain: Sequence[str] = (),
    groups: int = 40,
    files: Files = Files(),
) -> Structure:
    """Trace the model called `name`, print its structure, or the parts named in `explain`, and write `files`.

    The table has at most `groups` lines of groups. A model of transformers for which no task is set gets the first head
    that there is, and one that is large is built without values.

    Raises `SparsewoodError` for a model that cannot be built or run, and where nothing says what inputs it takes.
    """
    places = [path for path in (files.svg, files.dot, None if files.json == "-" else files.json) if path is not None]
    for path in places:
        check_target(Path(path))  # what can be wrong is found out now
    if groups < 1:
        raise SparsewoodError(f"--groups must be a whole number >= 1. Got {groups}.")
    parameters = model_parameters(settings)
    if name.startswith("transformers:"):
        parameters.setdefault("task", "any")
    to_stderr = files.json == "-"
    with importable([Path.cwd()]), redirect_stdout(sys.stderr) if to_stderr else nullcontext():
        model = _built(name, parameters)
        inputs = inputs_of_shapes(model, shapes) if shapes else example_inputs(model, name, **parameters)
        begun = time.perf_counter()
        structure = trace(model, inputs, attention=attention)
        seconds = time.perf_counter() - begun
        _print(structure, name, seconds, explain, groups)
    _write(structure, name, files)
    return structure


def check_target(path: Path) -> None:
    """Raise `OutputError` if no file can be written there."""
    if path.exists() and not path.is_file():
        raise OutputError(f"Cannot write file '{path}': it exists and is no regular file. Choose another path.")
    writable_directory(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"Cannot write file '{path}': permission denied. Choose another path.")


def _built(name: str, parameters: Mapping[str, Any]) -> nn.Module:
    """The model; a large one of transformers without values, of which the structure does not need any."""
    call = Call(name, dict(parameters), load_model, load_model)
    if name.startswith("transformers:") and not parameters.get("pretrained"):
        try:
            with torch.device("meta"):
                model = call.build()
        except Exception:  # some compute numbers while they are built; and what is wrong is said below
            return call.build()
        if sum(parameter.numel() for parameter in model.parameters()) > _LARGE:
            return model
    return call.build()


def model_parameters(settings: Sequence[str]) -> dict[str, Any]:
    """`depth=56` and the like, values in YAML."""
    root = yamlfile.Node({}, "--set")
    for setting in settings:
        root = yamlfile.override(root, setting)
    return yamlfile.plain(root)


def _print(structure: Structure, name: str, seconds: float, explain: Sequence[str], groups: int) -> None:
    if explain:
        print("\n\n".join(structure.explain(one) for one in explain))
        return
    width = max(80, get_terminal_size().columns) if sys.stdout.isatty() else 120
    print(f"{name}, traced in {seconds:.2f} s")
    print(structure.summary(width=width, groups=groups))


def _write(structure: Structure, name: str, files: Files) -> None:
    made = {files.svg: lambda: structure.to_svg(title=name), files.dot: structure.to_dot}
    if files.json == "-":
        print(_json(structure))
    elif files.json is not None:
        made[Path(files.json)] = lambda: f"{_json(structure)}\n"
    made.pop(None, None)
    for path, content in made.items():
        assert path is not None
        write_atomically(path, partial(_write_text, content()))
    if made:
        print(
            "\nWritten:",
            *(f"  {path}" for path in made),
            sep="\n",
            file=sys.stderr if files.json == "-" else sys.stdout,
        )


def _write_text(content: str, path: Path) -> None:
    path.write_text(content, encoding="utf-8")


def _json(structure: Structure) -> str:
    return json.dumps(structure.to_json())
