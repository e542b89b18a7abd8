"""The contract of a data set."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor

from sparsewood.data import HeldOut, Loader, Part, Split
from sparsewood.data.split import PARTS
from sparsewood.errors import SparsewoodError
from sparsewood.testing.checks.shared import expect

EXAMPLES = 48  # of each part, from both ends and between: reading all of ImageNet would take an hour
BATCH_SIZE = 8
BATCHES = 3


def check_data(split: Split) -> None:
    """The contract of a split: of a data set in the catalogue, or one of your own.

    No example is in two parts, and none is twice in one; only the validation part may be empty. Every part has images
    of one shape and labels in [0, classes); pixels lie in [0, 1] where there is a normalisation, and inputs are the
    normalised pixels. Reading a part twice, by whatever batches, gives the same inputs, so nothing is random in
    evaluation, and the global random state stays. A loader's order and augmentation follow from its seed and the epoch,
    also from the middle of one. Only the training part can be augmented. The test part is sealed; it is opened here
    once.

    It looks at some examples of each part. Raises `AssertionError` with what is wrong.

    >>> from sparsewood.data import digits
    >>> check_data(digits())
    """
    expect(isinstance(split, Split), f"{split!r} must be a Split")
    expect(isinstance(split.test, HeldOut), f"{split.name}: the test part must be sealed: HeldOut(part)")
    _check_disjoint(split)
    opened = split.test.openings
    test = split.test.open()
    expect(split.test.openings == opened + 1, f"{split.name}: opening the test part is not counted")
    _check_part(f"{split.name}, train", split.train, split)
    for name, part in (("validation", split.validation), ("test", test)):
        if len(part):
            _check_part(f"{split.name}, {name}", part, split)
            _check_evaluation(f"{split.name}, {name}", part)
    expect(split.train.training, f"{split.name}: the training part must have training=True")
    _check_order(split)


def _check_disjoint(split: Split) -> None:
    drawn = torch.cat([split.indices[part] for part in PARTS])
    expect(drawn.unique().numel() == drawn.numel(), f"{split.name}: an example is in two parts, or twice in one")
    for part, size in split.sizes.items():
        expect(size > 0 or part == "validation", f"{split.name}: the {part} part is empty")
        expect(len(getattr(split, part)) == size, f"{split.name}: {part} and its indices differ in number")


def _check_part(where: str, part: Part, split: Split) -> None:
    labels = part.labels
    expect(labels.dtype == torch.int64, f"{where}: labels are {labels.dtype}; expected int64")
    low, high = int(labels.min()), int(labels.max())
    expect(0 <= low <= high < split.classes, f"{where}: labels lie in {low}..{high}, with {split.classes} classes")
    before = torch.get_rng_state()
    indices = _some(part)
    pixels, (inputs, targets) = part.pixels(indices), part.batch(indices)
    expect(torch.equal(before, torch.get_rng_state()), f"{where}: reading changes the global random state")
    shape = (len(indices), *split.input_shape)
    expect(pixels.shape == shape, f"{where}: pixels have shape {tuple(pixels.shape)}; expected {shape}")
    expect(bool(pixels.isfinite().all()), f"{where}: pixels are not all finite")
    if part.normalization is not None:
        expect(pixels.dtype == torch.float32, f"{where}: pixels are {pixels.dtype}; expected float32")
        bounds = [float(bound) for bound in pixels.aminmax()]
        expect(bounds[0] >= 0 and bounds[1] <= 1, f"{where}: pixels lie in {bounds}; expected [0, 1]")
    expect(torch.equal(inputs, part.normalized(pixels)), f"{where}: inputs are not the normalised pixels")
    expect(torch.equal(targets, labels[indices]), f"{where}: a batch has other labels than the part")
    one, label = part[int(indices[-1])]
    expect(
        torch.equal(one, inputs[-1]) and int(label) == int(targets[-1]), f"{where}: an example differs from its batch"
    )


def _check_evaluation(where: str, part: Part) -> None:
    expect(not part.training, f"{where}: only the training part may have training=True")
    some = part.subset(_some(part))
    whole = torch.cat([inputs for inputs, _ in Loader(some, BATCH_SIZE)])
    again = torch.cat([inputs for inputs, _ in Loader(some, BATCH_SIZE + 3)])
    expect(torch.equal(whole, again), f"{where}: read twice, inputs differ; evaluation must not be random")
    try:
        Loader(part, BATCH_SIZE, seed=0, augment=_unchanged)
    except SparsewoodError:
        return
    raise AssertionError(f"{where}: it can be augmented; expected training=False.")


def _check_order(split: Split) -> None:
    loader = Loader(split.train, BATCH_SIZE, seed=0, augment=_noisy if split.train.normalization else None)
    before = torch.get_rng_state()
    first, again = ([*islice(loader.epoch(1), BATCHES)] for _ in range(2))
    expect(torch.equal(before, torch.get_rng_state()), f"{split.name}: loading changes the global random state")
    for (inputs, labels), (same, targets) in zip(first, again, strict=True):
        equal = torch.equal(inputs, same) and torch.equal(labels, targets)
        expect(equal, f"{split.name}: one epoch, loaded twice with one seed, differs")
    for (inputs, _), (same, _) in zip(first[1:], islice(loader.epoch(1, start=1), BATCHES - 1), strict=True):
        expect(torch.equal(inputs, same), f"{split.name}: an epoch entered in the middle differs from a whole one")
    orders = [loader.order(number) for number in range(2)]
    examples = torch.arange(loader.samples)
    for order in orders:
        expect(torch.equal(order.sort().values, examples), f"{split.name}: an epoch does not have every example once")
    different = not torch.equal(*orders) or loader.samples < BATCH_SIZE
    expect(different, f"{split.name}: two epochs have the same order")


def _some(part: Part) -> Tensor:
    return torch.linspace(0, len(part) - 1, min(EXAMPLES, len(part)), dtype=torch.float64).round().long()


def _unchanged(pixels: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001 - an augmentation takes both
    return pixels


def _noisy(pixels: Tensor, generator: torch.Generator) -> Tensor:
    return (pixels + 0.1 * torch.rand(pixels.shape, generator=generator)).clamp(0, 1)
