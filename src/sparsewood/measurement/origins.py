"""Where the tensors of a forward pass come from: from a parameter, from the inputs, or from neither."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from sparsewood.parameters import entries

__all__ = ["Origins"]


@dataclass(frozen=True)
class _Span:
    start: int
    stop: int
    name: str


@dataclass
class _Storage:
    """What is known of one storage. The weak reference keeps its address from being given to another storage."""

    reference: StorageWeakRef
    active: bool = False
    name: str | None = None
    spans: tuple[_Span, ...] = ()


class Origins:
    """Follows values from parameters to operands, by storage.

    A tensor is a *parameter* if it lies in a parameter's storage (views, slices and transposes do), *active* if it
    depends on the inputs, and otherwise constant. A constant carries the name of the parameter that it was computed
    from: a masked, normalised, cast or copied weight is still that weight.
    """

    def __init__(self, model: nn.Module, inputs: Iterable[Tensor]) -> None:
        self._storages: dict[int, _Storage] = {}
        for tensor in inputs:
            self._of(tensor, create=True)
            self._activate(tensor)
        for entry in entries(model):
            storage = self._of(entry.parameter, create=True)
            if storage is not None:
                start, stop = _extent(entry.parameter)
                storage.spans += (_Span(start, stop, entry.name),)
                storage.active = False

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether `tensor` lies in the storage of a parameter."""
        return self._parameter_name(tensor) is not None

    def is_active(self, tensor: Tensor) -> bool:
        """Whether `tensor` depends on the inputs."""
        storage = self._of(tensor)
        return storage is not None and storage.active

    def name(self, tensor: Tensor) -> str | None:
        """The parameter that `tensor` is, or is computed from alone; `None` for everything else."""
        storage = self._of(tensor)
        if storage is None:
            return None
        return self._parameter_name(tensor) or storage.name

    def record(self, sources: Sequence[Tensor], results: Sequence[Tensor], *, passes_name: bool) -> None:
        """Note that an operation made `results` of `sources`.

        `passes_name` is false for contractions: their result is a new quantity, no longer the weight.
        """
        active = any(self.is_active(source) for source in sources)
        names = [(source.numel(), name) for source in sources if (name := self.name(source)) is not None]
        size, name = max(names, key=lambda pair: pair[0], default=(0, None))
        for result in results:
            known = self._of(result)
            if known is not None and known.spans:
                continue  # a view of a parameter
            if active:
                self._of(result, create=True)
                self._activate(result)
            elif known is None and passes_name and name is not None and result.numel() <= size:
                # What is larger than the weight was made by broadcasting it against something else.
                storage = self._of(result, create=True)
                if storage is not None:
                    storage.name = name

    def _activate(self, tensor: Tensor) -> None:
        storage = self._of(tensor)
        if storage is not None and not storage.spans:
            storage.active, storage.name = True, None

    def _parameter_name(self, tensor: Tensor) -> str | None:
        storage = self._of(tensor)
        if storage is None or not storage.spans:
            return None
        # Several parameters may share one storage, as the weights of a flattened recurrent layer do.
        start = _extent(tensor)[0]
        inside = [span for span in storage.spans if span.start <= start < max(span.stop, span.start + 1)]
        return inside[0].name if inside else None

    def _of(self, tensor: Tensor, *, create: bool = False) -> _Storage | None:
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # sparse and opaque layouts have no storage of their own
            return None
        known = self._storages.get(storage._cdata)
        if known is None and create:
            known = self._storages[storage._cdata] = _Storage(StorageWeakRef(storage))
        return known


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First and one-past-last byte of `tensor` in its storage."""
    start = int(tensor.storage_offset()) * tensor.element_size()
    if tensor.numel() == 0:
        return start, start
    last = sum((size - 1) * int(stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (last + 1) * tensor.element_size()
