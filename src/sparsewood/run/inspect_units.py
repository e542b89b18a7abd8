"""`sparsewood inspect --units`: which units of a network are dead, constant, saturated, or there for single images."""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsewood.data.loader import Loader
from sparsewood.data.part import Part
from sparsewood.data.split import Split
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import to_model_device
from sparsewood.report.units import UnitRow
from sparsewood.run import yamlfile
from sparsewood.run.annotations import OfKind, check
from sparsewood.run.bench import FINAL
from sparsewood.run.calls import Call
from sparsewood.run.components import INVALID, Reader, RecipeError
from sparsewood.run.progress import Advance
from sparsewood.run.recipe import Positive
from sparsewood.run.weights import load_weights
from sparsewood.seeds import generator_for
from sparsewood.shrinking.files import PLAN, load
from sparsewood.structure import trace
from sparsewood.units import Liveness, UnitMemorization, dead_units, unit_memorization

__all__ = ["UnitReport", "UnitSettings", "look", "network_of", "steps", "unit_settings"]

Attention = Literal["heads", "head_dims"]

SEED = 0


@dataclass(frozen=True)
class UnitSettings:
    """What is looked at.

    Args:
        augment: what is done to images before UnitMem is measured, `augmentations` times each.
        images: how many training images, drawn at random, in the order of the data.
        threshold: from which UnitMem on a unit memorizes.
        negative: layers with activations below 0, for which UnitMem is not defined: "skip" leaves it out there, with
            "absolute" it is that of absolute values.
        weights: a file, or a directory that `sparsewood run` or `sparsewood shrink` wrote; None for new weights.
        activations: a new directory for the mean activation of every unit for every image.
    """

    data: Annotated[Call, OfKind("data")]
    augment: Annotated[Any, OfKind("augmentations")] | None = None
    augmentations: Positive = 10
    images: Annotated[int, Field(ge=2)] = 1000
    batch_size: Positive = 500
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.9
    negative: Literal["skip", "absolute"] = "skip"
    weights: Path | None = None
    activations: Path | None = None

    def __post_init__(self) -> None:
        check(self)

    def split(self) -> Split:
        """The data; raises `SparsewoodError` if they cannot be read, or are no `Split`."""
        split = self.data.build()
        if not isinstance(split, Split):
            raise SparsewoodError(f"data: {self.data.name} must give a Split. Got {type(split).__name__}.")
        return split


def unit_settings(given: Mapping[str, object]) -> UnitSettings:
    """Settings from the options of the command line that were given (are not None), `data` and `augment` in YAML.

    `data_dir` is where the files of the data are. Raises `SparsewoodError` for what means nothing, and without data.

    >>> settings = unit_settings({"data": "digits", "augment": "{name: CropFlip, padding: 1}", "images": 100})
    >>> settings.augment, settings.images
    (CropFlip(padding=1, flip=True), 100)
    """
    if given.get("data") is None:
        raise SparsewoodError(
            "--units needs the data that the network is trained on: --data digits, or another of those that "
            "'sparsewood list data' shows."
        )
    nodes = {key: _node(key, value) for key, value in given.items() if value is not None and key != "data_dir"}
    root = yamlfile.Node(nodes, "--units")
    if given.get("data_dir") is not None:
        root = yamlfile.override(root, f"data.root={json.dumps(str(given['data_dir']))}")
    reader = Reader((Path.cwd(),))
    settings = reader.section(root, UnitSettings)
    if settings is INVALID or reader.problems:
        raise RecipeError(reader.problems)
    return settings


def _node(key: str, value: object) -> yamlfile.Node:
    where = f"--{key.replace('_', '-')}"
    if key in ("data", "augment"):
        return replace(yamlfile.read(str(value), where), where=where)
    return yamlfile.Node(str(value) if isinstance(value, Path) else value, where)


# ---------------------------------------------------------------- the network


def network_of(call: Call, weights: Path | None) -> nn.Module:
    """The network, with weights from a file or from a directory of a run, on an accelerator if there is one.

    In a directory it is the network that `sparsewood shrink` wrote, or the one at the end of a finished stage; new
    weights are the same every time. Raises `SparsewoodError` if there is no such network, or more than one.
    """
    model = call.build(generator=generator_for(SEED, "weights"))
    if weights is not None and (weights / PLAN).is_file():
        model = load(weights, model=model)
    elif weights is not None:
        load_weights(model, _file(weights))
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _file(path: Path) -> Path:
    """The file of weights that is meant by a path."""
    if not path.is_dir() or (path / FINAL).is_file():
        return path / FINAL if path.is_dir() else path
    found = sorted(path.rglob(FINAL))
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"'{one.parent}'" for one in found[:6]) + (", ..." if len(found) > 6 else "")
    what = f"holds the networks of {len(found)} finished stages. Name one: {listed}" if found else "holds no network"
    raise SparsewoodError(f"weights: '{path}' {what}.")


# ---------------------------------------------------------------- the work


@dataclass(frozen=True, eq=False)
class UnitReport:
    """What was found, unit by unit, on `images` of the training part; `numbers` are theirs in the whole data set.

    `left_out` names layers of which UnitMem is not defined, and why.
    """

    rows: tuple[UnitRow, ...]
    split: Split
    images: Part
    numbers: Tensor
    left_out: Mapping[str, str]

    def pixels(self, number: int) -> Tensor:
        """float32[channels, height, width] in [0, 1] of the image of that number."""
        place = int((self.numbers == number).nonzero()[0])
        return self.images.pixels(torch.tensor([place]))[0]


def steps(settings: UnitSettings, split: Split) -> int:
    """How many batches are looked at, at most."""
    images = min(settings.images, len(split.train))
    views = images * (settings.augmentations if settings.augment is not None else 1)
    return math.ceil(images / settings.batch_size) + math.ceil(views / settings.batch_size)


def look(
    model: nn.Module, split: Split, settings: UnitSettings, *, attention: Attention, advance: Advance
) -> UnitReport:
    """Run the network on training images as they are, then augmented, and say of every unit what it does.

    Raises `SparsewoodError` if the network does not take such images.
    """
    part = split.train
    drawn = torch.randperm(len(part), generator=generator_for(SEED, "images"))[: settings.images].sort().values
    images, numbers = part.subset(drawn), split.indices["train"][drawn]
    try:
        structure = trace(model, to_model_device(images.batch(torch.arange(1))[0], model), attention=attention)
    except SparsewoodError as error:
        raise SparsewoodError(
            f"The network does not run on an image of {split.name}, of shape {split.input_shape}: {error}"
        ) from error
    batches = _told(Loader(images, settings.batch_size), advance)
    liveness = dead_units(model, batches, structure=structure)
    layers, left_out = _measurable(liveness, settings.negative)
    found = None
    if layers:
        found = unit_memorization(
            model, images, settings.augment, settings.augmentations, batch_size=settings.batch_size,
            negative=settings.negative, layers=[glob.escape(name) for name in layers], structure=structure,
            generator=generator_for(SEED, "augment"), progress=lambda _: advance("UnitMem", 1),
            activations=settings.activations,
        )  # fmt: skip
        left_out |= {name: "activations below 0 under augmentations" for name in layers if name not in found.scores}
    rows = tuple(_rows(liveness, found, left_out, split, numbers))
    return UnitReport(rows, split, images, numbers, left_out)


def _told(batches: Iterable[Any], advance: Advance) -> Iterator[Any]:
    for batch in batches:
        yield batch
        advance("activations", 1)


def _measurable(liveness: Liveness, negative: str) -> tuple[list[str], dict[str, str]]:
    """The layers of which UnitMem is measured, and why others are left out."""
    lowest = {name: float(one.nan_to_num(nan=0.0).min()) for name, one in liveness.lowest.items()}
    if negative == "absolute":
        return list(lowest), {}
    left_out = {name: "activations below 0" for name, low in lowest.items() if low < 0}
    return [name for name in lowest if name not in left_out], left_out


def _rows(
    liveness: Liveness, found: UnitMemorization | None, left_out: Mapping[str, str], split: Split, numbers: Tensor
) -> Iterator[UnitRow]:
    labels = split.train.labels
    position = {number: place for place, number in enumerate(split.indices["train"].tolist())}

    def named(number: int) -> str:
        label = int(labels[position[number]])
        return split.class_names[label] if split.class_names else str(label)

    for layer, zeros in liveness.zeros.items():
        flags = {kind: getattr(liveness, kind)[layer].tolist() for kind in ("dead", "constant", "saturated")}
        scores = None if found is None or layer in left_out else found.scores[layer].tolist()
        for unit, zero in enumerate(zeros.tolist()):
            state = next((kind for kind, of in flags.items() if of[unit]), "")
            if math.isnan(zero):
                yield UnitRow(layer, unit, None, None, None, None, None)
            elif scores is None or found is None or math.isnan(scores[unit]):
                yield UnitRow(layer, unit, state, zero, None, None, None)
            else:
                image = None if found.dead[layer][unit] else int(numbers[found.image[layer][unit]])
                label = None if image is None else named(image)
                yield UnitRow(layer, unit, state, zero, scores[unit], image, label)
