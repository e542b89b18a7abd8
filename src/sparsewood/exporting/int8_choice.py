"""Which weights become integers, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from sparsewood.exporting.int8_sites import Site
from sparsewood.parameters import Selectors, entries, find

__all__ = ["Choice", "choice_of"]

_RECURRENT = ("GRU", "RNN")


@dataclass(frozen=True, eq=False)
class Choice:
    """All places of weights, and of those that are left in float32 the reasons."""

    all: tuple[Site, ...]
    left: Mapping[Site, str]

    @property
    def chosen(self) -> list[Site]:
        """Those that shall be quantised."""
        return [site for site in self.all if site not in self.left]


def choice_of(
    found: Sequence[Site],
    network: nn.Module,
    include: Selectors | None,
    exclude: Selectors | None,
    *,
    per_channel: bool,
    symmetric: bool,
    static: bool,
) -> Choice:
    """What the selectors mean, less what onnxruntime cannot do; raises `UnknownName` for names that mean nothing."""
    known = entries(network)
    named = None if include is None else {entry.name for entry in find(known, include, "include")}
    dropped = set() if exclude is None else {entry.name for entry in find(known, exclude, "exclude")}
    # An operator with two weights, as an LSTM, has both in 8 bits or none.
    together: dict[str, set[str]] = {}
    for site in found:
        together.setdefault(site.node, set()).update(site.parameters)
    left: dict[Site, str] = {}
    for site in found:
        names = together[site.node]
        reasons = _reasons(site, per_channel=per_channel, symmetric=symmetric, static=static)
        if names & dropped:
            left[site] = "excluded"
        elif named is not None and not names & named:
            left[site] = "not included"
        elif site.operator == "Gather" and named is None:
            left[site] = "embeddings are looked up, not multiplied; name it in include to hold it in 8 bits"
        elif reason := next(reasons, None):
            left[site] = reason
    return Choice(tuple(found), left)


def _reasons(site: Site, *, per_channel: bool, symmetric: bool, static: bool) -> Iterator[str]:
    """Why onnxruntime cannot compute with it in 8 bits."""
    if site.operator in _RECURRENT:
        yield f"onnxruntime has no {site.operator} of 8 bits"
    if site.operator == "LSTM" and static:
        yield "onnxruntime quantises what an LSTM reads only as it comes: activations=Dynamic()"
    if site.operator == "LSTM" and not symmetric:
        yield "onnxruntime's LSTM needs weights with zero at 0: symmetric=True"
    if site.operator in ("Conv", "ConvTranspose") and not static:
        yield "convolutions need calibrated activations: activations=Static()"
    if site.operator == "ConvTranspose" and site.groups > 1 and per_channel:
        yield "a transposed convolution in groups has no axis of outputs: per_channel=False"
    if site.operator in ("Gemm", "MatMul") and site.axis is None:
        yield "the constant is the left operand, or a stack of matrices"
