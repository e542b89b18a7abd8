"""What `sparsewood inspect --units` shows and writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sparsewood.errors import SparsewoodError
from sparsewood.models.sources import load_model
from sparsewood.report.plots import require_matplotlib, save_figure
from sparsewood.report.rows import to_csv
from sparsewood.report.unit_plots import image_grid
from sparsewood.report.units import UnitRow, layer_rows, layer_table, most_memorizing, unit_table
from sparsewood.run.calls import Call, importable
from sparsewood.run.directory import write_text
from sparsewood.run.inspect_command import check_target, model_parameters
from sparsewood.run.inspect_units import Attention, UnitReport, UnitSettings, look, network_of, steps, unit_settings
from sparsewood.run.progress import progress
from sparsewood.run.show import show
from sparsewood.structure.names import collapsed, counted

__all__ = ["UnitFiles", "inspect_units"]

FORMAT, VERSION = "sparsewood units", 1
IN_PICTURE = 8


@dataclass(frozen=True)
class UnitFiles:
    """Where it is written, besides the tables; `json` may be "-", standard output."""

    json: str | None = None
    csv: Path | None = None
    png: Path | None = None


def inspect_units(
    name: str,
    options: Mapping[str, object],
    settings: Sequence[str] = (),
    *,
    top: int = 3,
    layers: int = 40,
    attention: Attention = "heads",
    files: UnitFiles = UnitFiles(),
) -> UnitReport:
    """Look at the units of the model called `name`, print the tables, and write `files`.

    `options` are those of `unit_settings`, `settings` parameters of the model. The tables show at most `layers` layers,
    and `top` units of each.

    Raises `SparsewoodError` for a model that cannot be built or does not take the images, for data that are not there,
    and for weights of another model.
    """
    for path in (files.csv, files.png, None if files.json in (None, "-") else Path(files.json or "")):
        if path is not None:
            check_target(path)  # what can be wrong is found out now
    if files.png is not None:
        require_matplotlib()
    for option, value in (("--top", top), ("--groups", layers)):
        if value < 1:
            raise SparsewoodError(f"{option} must be a whole number >= 1. Got {value}.")
    parameters = model_parameters(settings)
    if name.startswith("transformers:"):
        parameters.setdefault("task", "any")
    aside = redirect_stdout(sys.stderr) if files.json == "-" else nullcontext()
    with importable([Path.cwd()]), aside:
        chosen = unit_settings(options)
        model = network_of(Call(name, parameters, load_model, load_model), chosen.weights)
        split = chosen.split()
        with progress(steps(chosen, split)) as advance:
            report = look(model, split, chosen, attention=attention, advance=advance)
        _show(report, name, chosen, top, layers)
    _write(report, name, chosen, top, files)
    return report


def _show(report: UnitReport, name: str, settings: UnitSettings, top: int, most: int) -> None:
    rows = layer_rows(report.rows, settings.threshold)
    show(layer_table(rows[:most], _title(report, name, settings), settings.threshold))
    if len(rows) > most:
        left = sum(row.units for row in rows[most:])
        more = f"{counted(len(rows) - most, 'more layer')} with {counted(left, 'unit')}"
        print(f"and {more}; all of them: --groups {len(rows)}")
    shown = {row.layer for row in rows[:most]}
    units = [row for row in most_memorizing(report.rows, top) if row.layer in shown]
    if units:
        print()
        what = f"The units that memorize most, at most {top} of each layer, and the images that excite them most"
        show(unit_table(units, what))
    print("", *_notes(report, settings), sep="\n")


def _title(report: UnitReport, name: str, settings: UnitSettings) -> str:
    split = report.split
    views = "not augmented"
    if settings.augment is not None:
        views = f"UnitMem over {settings.augmentations} augmentations by {_changed(settings.augment)}"
    note = f" ({split.note})" if split.note else ""
    return f"{name} on {len(report.images):,} of {len(split.train):,} training images of {split.name}{note}, {views}"


def _changed(augment: Any) -> str:
    """An augmentation, with what differs from its defaults."""
    given = {one.name: getattr(augment, one.name) for one in fields(augment)}
    defaults = {one.name: one.default for one in fields(augment)}
    return f"{type(augment).__name__}({', '.join(f'{k}={v!r}' for k, v in given.items() if v != defaults[k])})"


def _notes(report: UnitReport, settings: UnitSettings) -> list[str]:
    weights = "new ones, not trained" if settings.weights is None else f"those of '{settings.weights}'"
    lines = [f"Images are numbered as in the whole data set, {report.split.name}. Weights: {weights}."]
    if settings.augment is None and any(row.unitmem is not None for row in report.rows):
        views = "UnitMemViews" if report.split.input_shape[0] == 3 else "CropFlip"
        lines.append(
            f"UnitMem is defined under augmentations, and was measured without: --augment {views}, for example."
        )
    unseen = sum(row.state is None for row in report.rows)
    if unseen:
        lines.append(f"{counted(unseen, 'unit')} could not be seen at any module.")
    if report.left_out:
        lines.append(
            "UnitMem is not defined, since there is no ReLU behind (--negative absolute takes absolute values):"
        )
        lines += collapsed((f"{layer}: {why}" for layer, why in report.left_out.items()), "  ")
    return lines


# ---------------------------------------------------------------- files


def _write(report: UnitReport, name: str, settings: UnitSettings, top: int, files: UnitFiles) -> None:
    written: list[Path] = []
    if files.csv is not None:
        write_text(files.csv, to_csv(report.rows))
        written.append(files.csv)
    if files.png is not None:
        save_figure(_picture(report, name, settings, top), files.png)
        written.append(files.png)
    if settings.activations is not None:
        written.append(settings.activations)
    if files.json is not None:
        text = json.dumps(_values(report, name, settings), allow_nan=False)
        if files.json == "-":
            print(text)
        else:
            write_text(Path(files.json), f"{text}\n")
            written.append(Path(files.json))
    if written:
        paths = (f"  {path}" for path in written)
        print("\nWritten:", *paths, sep="\n", file=sys.stderr if files.json == "-" else sys.stdout)


def _picture(report: UnitReport, name: str, settings: UnitSettings, top: int) -> Any:
    rows: dict[str, list[Any]] = {}
    for row in most_memorizing(report.rows, min(top, IN_PICTURE)):
        assert row.image is not None
        rows.setdefault(row.layer, []).append((_caption(row), report.pixels(row.image).numpy()))
    if not rows:
        raise SparsewoodError("There is no picture to draw: of no unit that is not dead UnitMem is defined.")
    return image_grid(rows, _title(report, name, settings))


def _caption(row: UnitRow) -> str:
    return f"unit {row.unit}: {row.unitmem:.2f}\nimage {row.image}, {row.label}"


def _values(report: UnitReport, name: str, settings: UnitSettings) -> dict[str, Any]:
    """All of it, as plain values; see docs/inspect-units.md."""
    split = report.split
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": name,
        "weights": None if settings.weights is None else str(settings.weights),
        "data": {"name": split.name, "note": split.note, "classes": split.classes, "images": report.numbers.tolist()},
        "augment": None if settings.augment is None else repr(settings.augment),
        "augmentations": 1 if settings.augment is None else settings.augmentations,
        "threshold": settings.threshold,
        "layers": [asdict(row) for row in layer_rows(report.rows, settings.threshold)],
        "units": [asdict(row) for row in report.rows],
        "left_out": dict(report.left_out),
    }
