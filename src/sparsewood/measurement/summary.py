"""Everything about a model's size and speed in one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import Inputs
from sparsewood.measurement.counting import count
from sparsewood.measurement.multiply_adds import Work, count_macs
from sparsewood.measurement.timing import Latency, latency

__all__ = ["Measurement", "measure"]


@dataclass(frozen=True)
class Measurement:
    """Size and speed of a model on one batch; `print` shows it with units.

    `params`, `nonzero`, `prunable`, `prunable_nonzero` and `bytes` are those of `count`, `macs`, `macs_nonzero`,
    `per_parameter` and `uncounted` those of `count_macs`, both for the batch as given. `latency` is `None` if it was
    not asked for.
    """

    params: int
    nonzero: int
    prunable: int
    prunable_nonzero: int
    bytes: int
    macs: int
    macs_nonzero: int
    per_parameter: Mapping[str, Work] = field(repr=False)
    uncounted: tuple[str, ...]
    latency: Latency | None

    def __str__(self) -> str:
        lines = [
            _line("parameters", self.params, self.nonzero),
            _line("prunable", self.prunable, self.prunable_nonzero),
            f"{'size':<12}{_scaled(self.bytes, 1024, ('B', 'KiB', 'MiB', 'GiB', 'TiB')):>10}",
            _line("MACs", self.macs, self.macs_nonzero),
        ]
        if self.uncounted:
            lines.append(f"{'':<12}not counted: {', '.join(self.uncounted)}")
        if self.latency is not None:
            lines.append(_latency_line(self.latency))
        return "\n".join(lines)


def measure(model: nn.Module, example_inputs: Inputs, *, repeats: int = 20) -> Measurement:
    """Parameters, non-zeros, bytes, multiply-accumulates and latency of `model` on `example_inputs`.

    `example_inputs` is a tensor, a tuple of positional inputs or a dict of keyword inputs; MACs (products) and latency
    (seconds, over `repeats` passes) are for this batch as a whole. `repeats=0` leaves the latency out. The model is
    run in eval mode and left as it was. Raises `SparsewoodError` if it does not run on the inputs.

    >>> import torch
    >>> layer = nn.Linear(100, 10)
    >>> _ = nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
    >>> print(measure(layer, torch.ones(2, 100), repeats=0))
    parameters      1.01 k  non-zero     1.00 k (99.0 %)
    prunable        1.00 k  non-zero     1.00 k (100.0 %)
    size          3.95 KiB
    MACs            2.00 k  non-zero     2.00 k (100.0 %)
    """
    if repeats < 0:
        raise SparsewoodError(f"measure needs repeats >= 0 (0 = no latency). Got {repeats}.")
    size = count(model)
    work = count_macs(model, example_inputs)
    return Measurement(
        params=size.params,
        nonzero=size.nonzero,
        prunable=size.prunable,
        prunable_nonzero=size.prunable_nonzero,
        bytes=size.bytes,
        macs=work.macs,
        macs_nonzero=work.macs_nonzero,
        per_parameter=work.per_parameter,
        uncounted=work.uncounted,
        latency=latency(model, example_inputs, repeats=repeats) if repeats else None,
    )


def _line(label: str, total: int, nonzero: int) -> str:
    share = f" ({100 * nonzero / total:.1f} %)" if total else ""
    return f"{label:<12}{_decimal(total):>10}  non-zero {_decimal(nonzero):>10}{share}"


def _latency_line(timed: Latency) -> str:
    values = [_scaled(seconds * 1e6, 1000, ("us", "ms", "s")) for seconds in (timed.median, timed.q25, timed.q75)]
    passes = "pass" if timed.repeats == 1 else "passes"
    return f"{'latency':<12}{values[0]:>10}  quartiles {values[1]} to {values[2]}, {timed.repeats} {passes}"


def _decimal(number: int) -> str:
    return _scaled(number, 1000, ("", "k", "M", "G", "T", "P"))


def _scaled(number: float, base: int, units: tuple[str, ...]) -> str:
    """Three digits and a unit; plain numbers below one `base` stay whole."""
    step = 0
    while abs(number) >= base and step < len(units) - 1:
        number, step = number / base, step + 1
    if isinstance(number, int):
        return f"{number} {units[0]}".rstrip()
    digits = 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:.{digits}f} {units[step]}"
