"""Weight sharing: the weights of a layer take few different values, found by k-means."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, require_model
from sparsewood.masks import apply_masks, by_first_name
from sparsewood.masks.apply import local
from sparsewood.parameters import Entry, Selectors
from sparsewood.quantization.granularities import PerChannel, PerTensor
from sparsewood.quantization.grid import cluster
from sparsewood.quantization.limits import Limit, Number, limits_of
from sparsewood.quantization.sharing import SharedWeight, Sharing
from sparsewood.quantization.starts import Optimal, Start

__all__ = ["share_weights"]

_PER_TENSOR = PerTensor()
_OPTIMAL = Optimal()
_CHUNK = 1 << 16
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def share_weights(
    model: nn.Module,
    clusters: Number | None = None,
    bits: Number | None = None,
    masks: Mapping[str, Tensor] | None = None,
    *,
    include: Selectors | None = None,
    exclude: Selectors | None = None,
    per: PerTensor | PerChannel = _PER_TENSOR,
    start: Start = _OPTIMAL,
) -> Sharing:
    """Replace each weight by the nearest of k values, the best ones by k-means for its layer; in place.

        minimise over values c_1 ... c_k:   sum over weights w that are not zero of  min_j (w - c_j)^2

    Zeros, and entries that `masks` remove, are exactly zero afterwards and have no part in it; a mean may be 0 as well,
    and makes zeros of its cluster. What has no more than k different values keeps them. Weights keep their type, shape
    and identity; a tied one is shared once. All weights are clustered before the first is changed.

    Args:
        clusters: k, how many values other than 0 each weight may have.
        bits: how many bits an index has: 2^bits values in all, of which one is the zero where there are zeros. Either
            this or `clusters`; a number for all, or a mapping from names, patterns or classes of layers or weights,
            which then are those that are shared (exact names win, then the first that fits).
        masks: by parameter name, True = kept. Those of weights that are not shared are applied.
        include, exclude: names, patterns, classes. By default the weights of linear layers, convolutions, recurrent and
            attention layers, the classifier, too. Embeddings and scales of normalisations where a name, class or
            pattern means no such weight, as in `include=["bn1", nn.Embedding]`; a bias only by its own name.
        per: `PerTensor()`, one codebook for each weight, or `PerChannel()`, one for each output.
        start: where k-means begins: `Optimal()`, or `Linear()`, `DensityBased()`, `KMeansPlusPlus()` of
            `sparsewood.quantization`.

    Raises `SparsewoodError` for numbers that cannot be, weights that are not finite, or whose squares float64 cannot
    hold, and sharded ones; `UnknownName` for names that mean nothing.
    Train the values on with `sparsewood.quantization.tune_centroids`.

    Source: Han et al. 2016, "Deep Compression", https://arxiv.org/abs/1510.00149.

    >>> layer = nn.Linear(5, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.0, 1.0, 2.0, 8.0, 9.0]]))
    >>> print(share_weights(layer, clusters=2))
    weight  entries  zeros  values  bits  relative error
    weight        5      1       3     2         0.00667
    >>> layer.weight.data
    tensor([[0.0000, 1.5000, 1.5000, 8.5000, 8.5000]])
    """
    require_model(model)
    if not isinstance(per, PerTensor | PerChannel):
        raise SparsewoodError(f"share_weights: per must be PerTensor() or PerChannel(). Got {per!r}.")
    if isinstance(start, type) or not callable(start):
        raise SparsewoodError(f"share_weights: start must be Optimal(), Linear() or the like. Got {start!r}.")
    limits = limits_of(model, clusters, bits, include, exclude)
    given = {name: mask.cpu() for name, mask in by_first_name(model, masks or {}).items()}
    for limit in limits:
        _require_sound(limit.entry, given.get(limit.entry.name))
    shared = {one.entry.name: _shared(one, given.get(one.entry.name), per, start) for one in limits}
    with torch.no_grad():
        for limit in limits:
            limit.entry.parameter.copy_(shared[limit.entry.name].weight())
    apply_masks(model, {name: mask for name, mask in given.items() if name not in shared})
    return Sharing(shared)


def _require_sound(entry: Entry, mask: Tensor | None) -> None:
    parameter, name = entry.parameter, entry.name
    if local(parameter) is not parameter or parameter.is_meta:
        where = "has no values (device meta)" if parameter.is_meta else "is sharded over processes"
        raise SparsewoodError(
            f"share_weights: {name!r} {where}. Share the weights of the whole network, on one device."
        )
    if parameter.dtype not in _DTYPES:
        raise SparsewoodError(f"share_weights: {name!r} is {parameter.dtype}; expected float16, bfloat16, 32 or 64.")
    if mask is None and bool(torch.isfinite(parameter.detach().sum())):
        return
    wrong = ~torch.isfinite(parameter.detach())
    if mask is not None:
        wrong &= mask.to(wrong.device)
    if bool(wrong.any()):
        raise SparsewoodError(
            f"share_weights: {int(wrong.sum())} of {wrong.numel():,} weights of {name!r} are not finite. Check where "
            "they come from; nothing was changed."
        )


# ---------------------------------------------------------------- one weight


def _shared(limit: Limit, mask: Tensor | None, per: PerTensor | PerChannel, start: Start) -> SharedWeight:
    entry, parameter = limit.entry, limit.entry.parameter
    weight = parameter.detach().cpu()
    rows = per.rows(entry, weight if weight.dtype is torch.float64 else weight.float())
    kept = None if mask is None else per.rows(entry, mask)
    if kept is not None or int(rows.count_nonzero()) < rows.numel():
        kept = (rows != 0) if kept is None else (rows != 0) & kept
    zeros = 0 if kept is None else kept.numel() - int(kept.count_nonzero())
    if not zeros:
        kept = None
    clusters, codes, books = limit.clusters(zeros > 0), list[Tensor](), list[Tensor]()
    for index, row in enumerate(rows):
        one, centers = cluster(row if kept is None else row[kept[index]], clusters, start)
        book = centers.to(parameter.dtype)
        if kept is not None:
            one = torch.zeros(row.shape, dtype=torch.int32).masked_scatter_(kept[index], one + 1)
            book = torch.cat([book.new_zeros(1), book])
        codes.append(one)
        books.append(book)
    codebook, single = _stacked(books), len(books) == 1
    indices = (codes[0][None] if single else torch.stack(codes)).to(_smallest(codebook.shape[1]))
    error, squares = _errors(rows, kept, codes, codebook)
    return SharedWeight(
        codebook=(codebook[0] if single else codebook).to(parameter.device),
        indices=per.whole(entry, indices).to(parameter.device),
        channels=None if single else per.channels(entry, len(books)).to(parameter.device),
        zeros=zeros,
        squared_error=error,
        squares=squares,
        unique=max(int(torch.unique(book[book != 0]).numel()) for book in books),
    )


def _errors(rows: Tensor, kept: Tensor | None, codes: list[Tensor], codebook: Tensor) -> tuple[float, float]:
    """sum (w - shared w)^2 and sum w^2 over the entries that count, added up in float64."""
    error = squares = 0.0
    for index, row in enumerate(rows):
        base = row if kept is None else row.where(kept[index], row.new_zeros(()))
        book = codebook[index].double()
        for part, code in zip(base.split(_CHUNK), codes[index].split(_CHUNK), strict=True):
            whole = part.double()
            off = whole - book.index_select(0, code)
            error += float(torch.dot(off, off))
            squares += float(torch.dot(whole, whole))
    return error, squares


def _stacked(books: list[Tensor]) -> Tensor:
    """As [rows, values], shorter ones filled up with their last value (0 if they have none)."""
    longest = max(1, *(len(book) for book in books))
    return torch.stack([torch.cat([b, (b[-1:] if len(b) else b.new_zeros(1)).expand(longest - len(b))]) for b in books])


def _smallest(values: int) -> torch.dtype:
    for dtype in (torch.uint8, torch.int16):
        if values - 1 <= torch.iinfo(dtype).max:
            return dtype
    return torch.int32
