"""`sparsewood inspect`: what hangs together in a model, what can be removed, and why the rest stays."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, Literal

from sparsewood.files import writable_directory, write_atomically
from sparsewood.models.examples import example_inputs, inputs_of_shapes
from sparsewood.models.sources import load_model
from sparsewood.run import yamlfile
from sparsewood.run.calls import Call, importable
from sparsewood.structure import Structure, trace

__all__ = ["Files", "inspect_model"]


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
    files: Files = Files(),
) -> Structure:
    """Trace the model called `name`, print its structure, or the parts named in `explain`, and write `files`.

    Raises `SparsewoodError` for a model that cannot be built or run, and where nothing says what inputs it takes.
    """
    places = [path for path in (files.svg, files.dot, None if files.json == "-" else files.json) if path is not None]
    for path in places:
        writable_directory(Path(path).parent)  # what can be wrong is found out now
    parameters = _parameters(settings)
    to_stderr = files.json == "-"
    with importable([Path.cwd()]), redirect_stdout(sys.stderr) if to_stderr else nullcontext():
        model = Call(name, parameters, load_model, load_model).build()
        inputs = inputs_of_shapes(model, shapes) if shapes else example_inputs(model, name, **parameters)
        begun = time.perf_counter()
        structure = trace(model, inputs, attention=attention)
        seconds = time.perf_counter() - begun
        _print(structure, name, seconds, explain)
    _write(structure, name, files)
    return structure


def _parameters(settings: Sequence[str]) -> dict[str, Any]:
    """`depth=56` and the like, values in YAML."""
    root = yamlfile.Node({}, "--set")
    for setting in settings:
        root = yamlfile.override(root, setting)
    return yamlfile.plain(root)


def _print(structure: Structure, name: str, seconds: float, explain: Sequence[str]) -> None:
    if explain:
        print("\n\n".join(structure.explain(one) for one in explain))
        return
    width = max(80, get_terminal_size().columns) if sys.stdout.isatty() else 120
    print(f"{name}, traced in {seconds:.2f} s")
    print(structure.summary(width=width))


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
