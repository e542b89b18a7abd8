"""From the files' training and test examples to a split: validation is cut from training, never from test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.data.part import Normalization, Part, Source
from sparsewood.data.sampling import stratified
from sparsewood.data.split import HeldOut, Split
from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.seeds import generator_for

__all__ = ["Cut", "Labelled", "assemble"]


@dataclass(frozen=True)
class Labelled:
    """Images and their labels, as the files have them."""

    source: Source
    labels: Tensor

    def check_labels(self, where: object, classes: int) -> Labelled:
        """Itself; raises `FileFormatError` if there is not one label in [0, classes) for each image."""
        if len(self.source) != len(self.labels):
            raise FileFormatError(f"'{where}' has {len(self.source)} images, but {len(self.labels)} labels.")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < classes:
            low, high = int(self.labels.min()), int(self.labels.max())
            raise FileFormatError(f"'{where}' has labels in {low}..{high}; expected 0..{classes - 1}.")
        return self


@dataclass(frozen=True)
class Cut:
    """How the training files are cut: a validation part (a share, or how many), and how many examples to train on.

    Both are drawn from `seed` with the classes represented alike. `validation` may be examples of its own, or 0 where
    nothing is to be chosen.
    """

    validation: float | Labelled
    train_size: int | None = None
    seed: int = 0


def assemble(
    name: str,
    train: Labelled,
    test: Labelled,
    *,
    cut: Cut,
    normalization: Normalization | None,
    classes: int | Sequence[str],
    notes: Sequence[str] = (),
) -> Split:
    """The split. The whole that indices speak of is the training files, then validation files of their own, then test.

    Raises `SparsewoodError` if a part that was asked for would be empty or `train_size` is more than there are.
    """
    names = () if isinstance(classes, int) else tuple(classes)
    chosen = torch.arange(len(train.labels))
    if isinstance(cut.validation, Labelled):
        own, offset = cut.validation, len(train.labels)
        drawn = torch.arange(len(own.labels))
    else:
        own, offset = train, 0
        drawn, chosen = stratified(
            train.labels, [_counted(cut.validation, chosen)], generator_for(cut.seed, "validation")
        )
    chosen, notes = _shortened(train.labels, chosen, cut, list(notes))
    if not (len(chosen) and len(test.labels) and (len(drawn) or cut.validation == 0)):
        raise SparsewoodError(
            f"Every part of {name} needs an example. Got {len(chosen)} for training, {len(drawn)} for validation "
            f"and {len(test.labels)} for the test."
        )
    before_test = len(train.labels) + (offset and len(own.labels))
    return Split(
        name,
        Part(train.source, train.labels[chosen], normalization, chosen, training=True),
        Part(own.source, own.labels[drawn], normalization, drawn),
        HeldOut(Part(test.source, test.labels, normalization)),
        classes if isinstance(classes, int) else len(names),
        {"train": chosen, "validation": drawn + offset, "test": torch.arange(len(test.labels)) + before_test},
        "; ".join(notes),
        names,
    )


def _counted(validation: int | float, examples: Tensor) -> float:
    """A share as a number of examples of the whole, so that many small classes do not all round it away."""
    is_share = isinstance(validation, float) and 0 <= validation < 1
    return round(validation * len(examples)) if is_share else validation


def _shortened(labels: Tensor, chosen: Tensor, cut: Cut, notes: list[str]) -> tuple[Tensor, list[str]]:
    size = cut.train_size
    if size is None or size == len(chosen):
        return chosen, notes
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < len(chosen):
        raise SparsewoodError(f"'train_size' must be a whole number from 1 to {len(chosen)}, or None. Got {size!r}.")
    part, _ = stratified(labels[chosen], [size], generator_for(cut.seed, "train_size"))
    return chosen[part], [*notes, f"trained on {size:,} of {len(chosen):,} training examples"]
