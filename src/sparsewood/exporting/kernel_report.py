"""Which layers got a sparse kernel, and what was measured: printed as a table, or read field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from sparsewood.exporting.report import columns
from sparsewood.measurement.timing import LatencyComparison
from sparsewood.structure.names import counted, middle, percent

__all__ = ["LayerChoice", "SparseKernels"]

_WIDEST = 40


@dataclass(frozen=True)
class LayerChoice:
    """One layer.

    Args:
    name, kind: the module's name, and its class.
    shape: that of its weight.
    sparsity: the share of zeros in it.
    seconds: medians, for all calls in one forward of the example inputs, by format: "dense", "csr", "bsr 4x4" ...;
        empty for a layer that was not measured.
    chosen: the format that it has now; "dense" if it was left alone.
    reason: why.
    skipped: formats that could not be tried, and why.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    sparsity: float
    chosen: str
    reason: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SparseKernels:
    """A copy of the network in which layers compute with what is not zero, where that was measured to be faster.

    Args:
    model: the copy, in eval mode, for inference.
    layers: what was chosen for each layer, in the network's order.
    skipped: formats that were asked for and could not be tried on any layer, and why.
    latency: the network before (first) and after (second), timed in turn; None if no layer was replaced.
    max_difference: the largest difference of an output on the example inputs, over its largest absolute value.
    threads: how many PyTorch computed with.
    inputs: what the times are for.
    """

    model: nn.Module
    layers: tuple[LayerChoice, ...]
    skipped: Mapping[str, str]
    latency: LatencyComparison | None
    max_difference: float
    threads: int
    inputs: str

    @property
    def replaced(self) -> tuple[LayerChoice, ...]:
        """The layers that have a sparse kernel."""
        return tuple(one for one in self.layers if one.chosen != "dense")

    def __repr__(self) -> str:
        return f"SparseKernels({len(self.replaced)} of {counted(len(self.layers), 'layer')} sparse)"

    def __str__(self) -> str:
        """A line for each layer, and what came of it.

        >>> fc = LayerChoice("fc", "Linear", (8, 64), 0.95, "csr", "2.00x", {"dense": 2e-3, "csr": 1e-3})
        >>> print(SparseKernels(nn.Identity(), (fc,), {"2:4": "it needs CUDA"}, None, 1e-7, 1, "float32[1, 64] on cpu"))
        layer  kind    weight  zeros   dense [ms]  csr [ms]  chosen  why
        fc     Linear  8x64    95.0 %       2.000     1.000  csr     2.00x
        <BLANKLINE>
        1 of 1 layer sparse, measured on float32[1, 64] on cpu with 1 thread
        2:4 skipped: it needs CUDA
        """
        formats = ["dense", *sorted({kind for one in self.layers for kind in one.seconds} - {"dense"})]
        header = ("layer", "kind", "weight", "zeros", *(f"{kind} [ms]" for kind in formats), "chosen", "why")
        rows = [header, *(_row(one, formats) for one in self.layers)]
        return "\n".join([*_table(rows, len(formats)), "", *self._summary()])

    def _summary(self) -> list[str]:
        measured = f"measured on {self.inputs} with {counted(self.threads, 'thread')}"
        lines = [f"{len(self.replaced)} of {counted(len(self.layers), 'layer')} sparse, {measured}"]
        if not self.replaced:
            lines = [f"No layer is faster with a sparse kernel, {measured}: the copy computes as the network did."]
        lines += [f"{kind} skipped: {why}" for kind, why in self.skipped.items()]
        if self.latency is not None:
            before, after = self.latency.first.median, self.latency.second.median
            slower = " The whole network is not faster: keep the dense one." if after >= before else ""
            lines.append(
                f"network: {1000 * before:.3f} -> {1000 * after:.3f} ms ({self.latency.ratio:.2f}x), largest relative "
                f"difference {self.max_difference:.1e}.{slower}"
            )
        return lines


def _row(one: LayerChoice, formats: list[str]) -> tuple[str, ...]:
    times = [f"{1000 * one.seconds[kind]:.3f}" if kind in one.seconds else "" for kind in formats]
    nothing = one.skipped if len(one.skipped) and not one.seconds else {}
    why = "; ".join([one.reason, *(f"{kind}: {reason}" for kind, reason in nothing.items())])
    shape = "x".join(map(str, one.shape))
    return middle(one.name or "(network)", _WIDEST), one.kind, shape, percent(one.sparsity), *times, one.chosen, why


def _table(rows: list[tuple[str, ...]], times: int) -> list[str]:
    """Times to the right, what is before and behind them to the left."""
    parts = [
        columns([row[:4] for row in rows], left=4),
        columns([row[4 : 4 + times] for row in rows], left=0),
        columns([row[4 + times :] for row in rows], left=2),
    ]
    return columns(list(zip(*parts, strict=True)), left=3)
