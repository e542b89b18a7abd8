"""The values that pass between the parts: amounts, statistics, masks. No behaviour beyond validation and algebra."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from sparsewood import maskfile
from sparsewood.errors import SparsewoodError, UnknownName

# ---------------------------------------------------------------- amounts


def _require_fraction(kind: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise SparsewoodError(f"{kind} must be a number in [0, 1]. Got {value!r} instead.")


@dataclass(frozen=True)
class Count:
    """Remove `n` units in all (those already removed count).

    >>> Count(3)
    Count(n=3)
    """

    n: int

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 0:
            raise SparsewoodError(f"Count must be a whole number >= 0. Got {self.n!r} instead.")


@dataclass(frozen=True)
class Sparsity:
    """Remove `round(fraction * N)` of N units (half to even; those already removed count)."""

    fraction: float

    def __post_init__(self) -> None:
        _require_fraction("Sparsity", self.fraction)


@dataclass(frozen=True)
class Density:
    """Keep `round(fraction * N)` of N units (half to even)."""

    fraction: float

    def __post_init__(self) -> None:
        _require_fraction("Density", self.fraction)


@dataclass(frozen=True)
class Remaining:
    """Remove `round(fraction * n)` of the n units that earlier masks left: one step of iterative pruning."""

    fraction: float

    def __post_init__(self) -> None:
        _require_fraction("Remaining", self.fraction)


@dataclass(frozen=True)
class Compression:
    """Keep `round(P / ratio)` of all P parameters of the model, those that are never pruned included.

    Of units larger than one weight, which need not add up to that number, at most as many stay.

    The share kept of the prunable parameters is therefore (P / ratio - fixed) / prunable
    (Blalock et al. 2020, https://arxiv.org/abs/2003.03033).
    """

    ratio: float

    def __post_init__(self) -> None:
        ok = isinstance(self.ratio, int | float) and not isinstance(self.ratio, bool)
        if not ok or not math.isfinite(self.ratio) or self.ratio < 1:
            raise SparsewoodError(f"Compression must be a finite ratio >= 1. Got {self.ratio!r} instead.")


@dataclass(frozen=True)
class Threshold:
    """Remove every unit whose score is below `value`; how many that are depends on the scores.

    Scores are those of the criterion (for `Magnitude`, |w|). A score equal to `value` stays.

    >>> Threshold(0.01)
    Threshold(value=0.01)
    """

    value: float

    def __post_init__(self) -> None:
        ok = isinstance(self.value, int | float | np.number) and not isinstance(self.value, bool)
        if not ok or not math.isfinite(self.value):
            raise SparsewoodError(f"Threshold must be a finite number. Got {self.value!r} instead.")


Amount = Count | Sparsity | Density | Remaining | Compression | Threshold
AmountLike = Amount | int | float


def as_amount(value: AmountLike) -> Amount:
    """An int is a `Count`, a float a `Sparsity`; amounts pass through.

    >>> as_amount(3), as_amount(0.5)
    (Count(n=3), Sparsity(fraction=0.5))
    """
    if isinstance(value, Amount):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise SparsewoodError(
            f"An amount must be an int (count), a float in [0, 1] (sparsity), or one of Count, Sparsity, Density, "
            f"Remaining, Compression, Threshold. Got {value!r} instead."
        )
    return Count(int(value)) if isinstance(value, int | np.integer) else Sparsity(float(value))


# ---------------------------------------------------------------- statistics


@dataclass(frozen=True)
class Statistics:
    """Sums over examples and how many there were: a monoid under `+`.

    `sums[kind][parameter]` is a tensor. Because every entry is a plain sum, the order and size of batches do not
    matter (up to rounding), and statistics of several processes add up.

    >>> one = Statistics({"gradient": {"w": torch.ones(2)}}, 3)
    >>> (one + one).sums["gradient"]["w"], (one + one).samples
    (tensor([2., 2.]), 6)
    """

    sums: Mapping[str, Mapping[str, Tensor]]
    samples: int

    def __add__(self, other: Statistics) -> Statistics:
        if {kind: set(of) for kind, of in self.sums.items()} != {kind: set(of) for kind, of in other.sums.items()}:
            raise SparsewoodError("Only statistics of the same kinds over the same parameters can be added.")
        total = {
            kind: {name: tensor + other.sums[kind][name] for name, tensor in of.items()}
            for kind, of in self.sums.items()
        }
        return Statistics(total, self.samples + other.samples)

    def get(self, kind: str, name: str) -> Tensor:
        """The sum of one kind for one parameter; raises `UnknownName` if it was not collected."""
        if kind not in self.sums:
            raise UnknownName.among("statistic", kind, self.sums)
        if name not in self.sums[kind]:
            raise UnknownName.among(f"parameter with statistic {kind!r}", name, self.sums[kind])
        return self.sums[kind][name]


# ---------------------------------------------------------------- masks


@dataclass(frozen=True)
class Masks(Mapping[str, Tensor]):
    """Boolean tensors shaped like the parameters they belong to, by parameter name; True = kept.

    Immutable: the tensors are copied in, and operations return new objects; do not write to the tensors that come out.
    `a & b` keeps what both keep.

    >>> masks = Masks({"w": torch.tensor([True, False, False, True])})
    >>> masks.sparsity, masks.removed, masks.total
    (0.5, 2, 4)
    >>> (masks & Masks({"w": torch.tensor([True, True, False, False])}))["w"]
    tensor([ True, False, False, False])
    """

    tensors: Mapping[str, Tensor] = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.tensors, Mapping):
            raise SparsewoodError(
                f"Masks are a mapping from parameter names to boolean tensors. Got {self.tensors!r:.80}."
            )
        for name, tensor in self.tensors.items():
            if not isinstance(name, str):
                raise SparsewoodError(f"Masks go by parameter name. Got the key {name!r}.")
            if not isinstance(tensor, Tensor) or tensor.dtype != torch.bool:
                got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise SparsewoodError(f"Mask {name!r} must be a boolean tensor. Got {got}.")
        copied = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        object.__setattr__(self, "tensors", MappingProxyType(copied))

    @classmethod
    def adopt(cls, tensors: dict[str, Tensor]) -> Masks:
        """Wrap boolean tensors that nobody else holds, without the copy."""
        masks = object.__new__(cls)
        object.__setattr__(masks, "tensors", MappingProxyType(tensors))
        return masks

    def __reduce__(self) -> tuple[object, ...]:
        return Masks.adopt, (dict(self.tensors),)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return self.keys() == other.keys() and all(
            mask.shape == other[name].shape and torch.equal(mask.cpu(), other[name].cpu())
            for name, mask in self.items()
        )

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def __repr__(self) -> str:
        return f"Masks({len(self)} tensors, {self.removed:,} of {self.total:,} removed, sparsity {self.sparsity:.4f})"

    def __and__(self, other: Masks) -> Masks:
        for name in self.keys() & other.keys():
            if self[name].shape != other[name].shape:
                raise SparsewoodError(
                    f"Masks of {name!r} have different shapes: {tuple(self[name].shape)} "
                    f"and {tuple(other[name].shape)}."
                )
        both = {name: mask & other[name].to(mask.device) if name in other else mask for name, mask in self.items()}
        return Masks.adopt(both | {name: mask for name, mask in other.items() if name not in self})

    @property
    def total(self) -> int:
        """Number of masked elements' positions, kept or not."""
        return sum(mask.numel() for mask in self.values())

    @property
    def removed(self) -> int:
        """Number of False entries."""
        return self.total - sum(int(mask.count_nonzero()) for mask in self.values())

    @property
    def sparsity(self) -> float:
        """Removed / total over the masked tensors (0 when there are none)."""
        return self.removed / self.total if self.total else 0.0

    def layer_sparsity(self) -> dict[str, float]:
        """Removed fraction of each tensor."""
        return {name: 1 - int(m.count_nonzero()) / m.numel() if m.numel() else 0.0 for name, m in self.items()}

    def packed(self) -> dict[str, np.ndarray]:
        """One bit per entry, row-major, high bit first (`numpy.packbits`)."""
        return {name: np.packbits(mask.cpu().contiguous().numpy().reshape(-1)) for name, mask in self.items()}

    def fingerprint(self) -> str:
        """SHA-256 over names, shapes and bits, in name order: equal masks, equal fingerprint, on any machine."""
        digest = hashlib.sha256()
        packed = self.packed()
        for name in sorted(self):
            digest.update(f"{name}{tuple(self[name].shape)}".encode())
            digest.update(packed[name].tobytes())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the masks to a safetensors file, at one bit per entry and about 100 bytes per mask.

        The file appears complete or not at all. Equal masks in equal order give equal bytes. Raises `OutputError` if
        the file cannot be written.

        >>> import tempfile
        >>> masks = Masks({"fc.weight": torch.tensor([[True, False, True]])})
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     masks.save(f"{directory}/masks.safetensors")
        ...     Masks.load(f"{directory}/masks.safetensors") == masks
        True
        """
        shapes = {name: list(mask.shape) for name, mask in self.items()}
        maskfile.write(path, shapes, self.packed(), self.fingerprint())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Masks:
        """Read what `save` wrote, onto the CPU.

        Raises `FileFormatError`, with path and reason, if the file is truncated, altered, of another kind or of another
        version, and `FileNotFoundError` if there is none.
        """
        tensors, fingerprint = maskfile.read(path)
        masks = cls.adopt(tensors)
        if masks.fingerprint() != fingerprint:
            raise maskfile.refused(path, "its content does not match its fingerprint, so it was altered")
        return masks
