"""Data sets of others: a function named as "package.module:function", and torch data sets made parts."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from sparsewood import checkpoint
from sparsewood.data.part import Normalization, Part, Source, View, as_pixels
from sparsewood.data.split import PARTS, HeldOut, Split
from sparsewood.errors import SparsewoodError
from sparsewood.seeds import derive

__all__ = ["Wrapped", "load_data", "split_of"]

COMPARED = 4  # images of two parts that are compared to find out whether they are the same data


def load_data(name: str, *, root: str | os.PathLike[str] | None = None, **parameters: Any) -> Split:
    """The split that the function "package.module:function" returns for `parameters` (and `root`, if given).

    The function returns a `Split`, or training, validation and test data sets of torch: a tuple in this order, or a
    mapping with these keys; they are wrapped as by `split_of`. Raises `SparsewoodError` if the name is not of this
    form, nothing is there, the parameters do not fit, or it returns something else.

    >>> load_data("sparsewood.data:digits", validation=0.3).sizes
    {'train': 899, 'validation': 539, 'test': 359}
    """
    function = _function(name)
    given = parameters if root is None else {"root": root, **parameters}
    try:
        inspect.signature(function).bind(**given)
    except TypeError as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in given.items())
        raise SparsewoodError(
            f"Data function '{name}' cannot be called with ({shown}): {error}. It takes {inspect.signature(function)}."
        ) from error
    made = function(**given)
    if isinstance(made, Split):
        return made
    if isinstance(made, Mapping) and set(made) == set(PARTS):
        made = tuple(made[part] for part in PARTS)
    if not isinstance(made, tuple | list) or len(made) != len(PARTS):
        raise SparsewoodError(
            f"Data function '{name}' must return a Split, a tuple of three data sets (train, validation, test) or a "
            f"mapping with these keys. Got {_shown(made)}."
        )
    return split_of(name, *made)


def split_of(name: str, train: Any, validation: Any, test: Any) -> Split:
    """A split of three map-style torch data sets of (input, label), whose transforms stay theirs.

    Inputs are tensors, arrays or PIL images of one shape (channels, height, width). Bytes are pixels: scaled to
    [0, 1] and normalised by mean and deviation of the training part. Floats are taken to be what the model gets. Labels
    are read from `targets`, `labels` or `tensors[1]`, else from the examples one by one.

    Raises `SparsewoodError` if a data set cannot be read by index, or two are the same or overlap: parts of one
    data set must be `Subset`s of it without a common index.
    """
    given = dict(zip(PARTS, (train, validation, test), strict=True))
    sources = {part: Wrapped(dataset, f"{name}: {part}") for part, dataset in given.items()}
    labels = {part: source.labels() for part, source in sources.items()}
    _refuse_copies(name, sources, labels)
    first = sources["train"].read(torch.tensor([0]))
    normalization = None
    if first.dtype == torch.uint8:
        normalization = Normalization.measured(Part(sources["train"], labels["train"], None))
    parts = {
        part: Part(source, labels[part], normalization, training=part == "train") for part, source in sources.items()
    }
    classes = 1 + max(int(of.max()) for of in labels.values())
    return Split(name, parts["train"], parts["validation"], HeldOut(parts["test"]), classes, _indices(name, sources))


@dataclass(frozen=True, eq=False)
class Wrapped(Source):
    """The inputs of a map-style torch data set, read one by one.

    In a training view what the data set draws from PyTorch's random state follows from the view and the position; the
    state itself is left as it was.
    """

    dataset: Any
    name: str

    def __post_init__(self) -> None:
        dataset = self.dataset
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")) or not len(dataset):
            raise SparsewoodError(
                f"{self.name} must be a data set with examples that can be read by index (with __len__ and "
                f"__getitem__). Got {_shown(dataset)}{'' if not hasattr(dataset, '__len__') else ' of length 0'}."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.read(torch.tensor([0])).shape[1:])

    def __len__(self) -> int:
        return len(self.dataset)

    def digest(self) -> str:
        """Of up to 64 examples, evenly spread; of how many there are alone, where an example differs at every look."""
        count = torch.tensor(len(self))
        examples = torch.linspace(0, len(self) - 1, min(64, len(self))).long()
        looks = [self.read(examples, View(0, 0)) for _ in range(2)]
        same = torch.equal(*looks)
        return checkpoint.digest({"count": count, "examples": looks[0]} if same else {"count": count}, {})

    def read(self, positions: Tensor, view: View | None = None) -> Tensor:
        if not len(positions):
            return self.read(torch.tensor([0]))[:0]
        if view is None:
            return self._stacked([self._example(position)[0] for position in positions.tolist()])
        with torch.random.fork_rng(devices=[]):
            inputs = []
            for position in positions.tolist():
                torch.default_generator.manual_seed(derive(view.seed, "image", view.epoch, position))
                inputs.append(self._example(position)[0])
        return self._stacked(inputs)

    def labels(self) -> Tensor:
        """int64[n], of all examples."""
        known = _known_labels(self.dataset)
        if known is None:
            known = [self._example(position)[1] for position in range(len(self))]
        try:
            labels = torch.as_tensor(known if isinstance(known, Tensor) else np.asarray(known)).reshape(-1)
            assert not labels.is_floating_point()
        except (TypeError, ValueError, AssertionError) as error:
            raise SparsewoodError(f"{self.name} must have a whole number as the label of each example.") from error
        if len(labels) != len(self) or int(labels.min()) < 0:
            raise SparsewoodError(
                f"{self.name} must have one label >= 0 for each of {len(self)} examples. Got {len(labels)} labels from "
                f"{int(labels.min())}."
            )
        return labels.long()

    def _example(self, position: int) -> tuple[Tensor, Any]:
        example = self.dataset[position]
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise SparsewoodError(f"{self.name}: example {position} must be (input, label). Got {_shown(example)}.")
        return _tensor(example[0], f"{self.name}: example {position}"), example[1]

    def _stacked(self, inputs: Sequence[Tensor]) -> Tensor:
        shapes = {tuple(tensor.shape) for tensor in inputs}
        if len(shapes) > 1:
            raise SparsewoodError(
                f"{self.name} has inputs of shapes {sorted(shapes)[:4]}. Resize them to one shape in the data set."
            )
        return torch.stack(list(inputs))


def _tensor(value: Any, where: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = np.array(value)  # a copy, also of PIL images: their memory is read-only
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise SparsewoodError(f"{where} must have a tensor, an array or an image as input. Got {_shown(value)}.")
    if hasattr(value, "getbands"):  # PIL: channels come last, and are not there for grey images
        array = array[:, :, None] if array.ndim == 2 else array
        return torch.from_numpy(array).permute(2, 0, 1)
    return torch.from_numpy(array)


def _known_labels(dataset: Any) -> Any:
    if isinstance(dataset, Subset):
        inner = _known_labels(dataset.dataset)
        return None if inner is None else np.asarray(inner)[list(dataset.indices)]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1]
    return next((getattr(dataset, name) for name in ("targets", "labels") if hasattr(dataset, name)), None)


def _indices(name: str, sources: Mapping[str, Wrapped]) -> dict[str, Tensor]:
    """Positions in the whole, which is the data sets that the parts are subsets of, one after another."""
    offsets: dict[int, int] = {}
    total = 0
    indices: dict[str, Tensor] = {}
    for part, source in sources.items():
        root, positions = _origin(source.dataset)
        if id(root) not in offsets:
            offsets[id(root)] = total
            total += len(root)
        indices[part] = positions + offsets[id(root)]
    drawn = torch.cat(list(indices.values()))
    repeated = drawn.numel() - drawn.unique().numel()
    if repeated:
        raise SparsewoodError(
            f"{name}: {repeated} examples are in two parts, or twice in one. Training, validation and test must be "
            "disjoint."
        )
    return indices


def _origin(dataset: Any) -> tuple[Any, Tensor]:
    if not isinstance(dataset, Subset):
        return dataset, torch.arange(len(dataset))
    root, positions = _origin(dataset.dataset)
    return root, positions[torch.as_tensor(list(dataset.indices), dtype=torch.int64)]


def _refuse_copies(name: str, sources: Mapping[str, Wrapped], labels: Mapping[str, Tensor]) -> None:
    """A data set opened twice, such as the training files under the name of a test set, looks like two."""
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if not torch.equal(labels[one], labels[other]):
            continue
        positions = torch.arange(len(labels[one]))[-COMPARED:]
        first, second = (as_pixels(sources[part].read(positions)) for part in (one, other))
        if first.shape == second.shape and torch.equal(first, second):
            raise SparsewoodError(
                f"{name}: '{one}' and '{other}' are the same data. Training, validation and test must be disjoint."
            )


def _function(name: str) -> Callable[..., Any]:
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise SparsewoodError(f"A data function is named as 'package.module:function'. Got {name!r}.")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SparsewoodError(f"Cannot import '{module_name}' for data function '{name}': {error}.") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise SparsewoodError(f"Module '{module_name}' has no function '{attribute}' (data function '{name}').")
    return function


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a mapping with keys {list(value)}" if isinstance(value, Mapping) else type(value).__name__
