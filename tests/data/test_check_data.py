"""The contract of a data set notices what it is for. Regressions 4, 5, 24; [000-11], [001-06]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import sparsewood.data
from sparsewood.data import HeldOut, Part, Pixels, Source, Split, View
from sparsewood.data.part import Normalization
from sparsewood.testing.checks.data import check_data


@dataclass(frozen=True, eq=False)
class Noisy(Source):
    """Randomly cropped images, as a wrongly built test set has them."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape[1:])

    def __len__(self) -> int:
        return len(self.tensor)

    def read(self, positions: Tensor, view: View | None = None) -> Tensor:  # noqa: ARG002
        with torch.random.fork_rng():
            torch.seed()
            return (self.tensor[positions] + 0.1 * torch.rand(self.shape)).clamp(0, 1)


def part(count: int, seed: int = 0, training: bool = False) -> Part:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 4, 4, generator=generator)
    return Part(Pixels(images), torch.arange(count) % 3, Normalization((0.5,) * 3, (0.5,) * 3), training=training)


def split(**changes: Any) -> Split:
    indices = dict(zip(("train", "validation", "test"), torch.arange(60).split([30, 10, 20]), strict=True))
    parts = {"train": part(30, 1, True), "validation": part(10, 2), "test": HeldOut(part(20, 3)), "classes": 3}
    given: dict[str, Any] = {"indices": indices, **parts, **changes}
    return Split("made", **given)


def test_a_good_split_passes_and_its_test_part_is_opened_once() -> None:
    made = split()
    check_data(made)
    assert made.test.openings == 1


def unsealed(made: Split) -> Split:
    object.__setattr__(made, "test", made.test.open())
    return made


def overlapping(made: Split) -> Split:
    object.__setattr__(made, "indices", {**made.indices, "validation": torch.arange(10)})
    return made


def augmentable(made: Split) -> Split:
    object.__setattr__(made, "validation", replace(made.validation, training=True))
    return made


def noisy(made: Split) -> Part:
    return replace(made.validation, source=Noisy(torch.rand(10, 3, 4, 4)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(unsealed, "the test part must be sealed"), (overlapping, "an example is in two parts"),
     (augmentable, "only the training part may have training=True"),
     (lambda made: replace(made, train=replace(made.train, training=False)), "must have training=True"),
     (lambda made: replace(made, classes=2), r"labels lie in 0..2, with 2 classes"),
     (lambda made: replace(made, validation=noisy(made)), "validation: inputs are not the normalised pixels"),
     (lambda made: replace(made, validation=replace(noisy(made), normalization=None)), "validation"),
     (lambda _: split(train=part(0, training=True), indices={"train": torch.arange(0), "validation": torch.arange(10),
                                                             "test": torch.arange(10, 30)}), "the train part is empty"),
     (lambda _: 3, "must be a Split")],
)  # fmt: skip
def test_defects_are_found(spoil: Callable[[Split], Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_data(spoil(split()))


def test_the_catalogue_holds_functions_that_say_where_data_come_from() -> None:
    for name in sparsewood.data.__all__:
        function = getattr(sparsewood.data, name)
        text = " ".join(function.__doc__.split())
        assert text.partition(". ")[0]
        assert "Source: " in text or "as in `" in text, name
