"""Reading the pickles that data sets are published in, without running what else a pickle may hold."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from sparsewood.errors import FileFormatError

__all__ = ["read_pickle"]

MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")


def read_pickle(path: Path, content: bytes) -> dict[Any, Any]:
    """The dict in a pickle of numbers, bytes, lists and numpy arrays of numbers; text is read as bytes.

    Unpickling calls what a file names. Here a file may name only what arrays are made of, and gets stand-ins for these,
    so that no code of numpy works on what a file claims either. Raises `FileFormatError` that says what else a file
    wanted, or that it is damaged.
    """
    try:
        loaded = _Reader(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(loaded, dict):
            raise TypeError(f"it holds no dict but {type(loaded).__name__}")
        return {key: value.values if isinstance(value, _Array) else value for key, value in loaded.items()}
    except _Forbidden as error:
        raise FileFormatError(
            f"'{path}' wants to load '{error}', which a data set of arrays does not need. Such a file can run any "
            "code; it was not loaded. Get the published file."
        ) from error
    except Exception as error:  # damaged bytes can be any sequence of operations, and fail in any way
        raise FileFormatError(
            f"'{path}' is no complete pickle of arrays: {type(error).__name__}: {error}. Get it again."
        ) from error


class _Forbidden(Exception):
    pass


class _Array:
    """Stands in for an array until its state arrives: (version, shape, type, whether columns come first, bytes)."""

    __slots__ = ("values",)

    def __init__(self, *_: Any) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, columns_first, content = state
        self.values = np.frombuffer(content, kind.code()).reshape(shape, order="F" if columns_first else "C")


class _Kind:
    """Stands in for a numpy type: its letter and size, then its byte order."""

    __slots__ = ("letters", "order")

    def __init__(self, letters: bytes | str, *_: Any) -> None:
        self.letters = letters.decode() if isinstance(letters, bytes) else letters
        self.order = "|"
        if np.dtype(self.letters).kind not in "biuf":
            raise _Forbidden(f"numpy.dtype {self.letters}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.order = order.decode() if isinstance(order, bytes) else order

    def code(self) -> np.dtype[Any]:
        return np.dtype(self.letters).newbyteorder(self.order)  # type: ignore[arg-type]


def _bytes(text: str, codec: str | bytes) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if codec not in ("latin1", b"latin1"):
        raise _Forbidden(f"codec {codec!r}")
    return text.encode("latin1")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        # A function of its own at each call: a pickle may try to set attributes of what it is given.
        if module in MODULES and name == "_reconstruct":
            return lambda *_: _Array()
        if (module, name) == ("numpy", "ndarray"):
            return lambda *_: _Array()
        if (module, name) == ("numpy", "dtype"):
            return lambda letters, *_: _Kind(letters)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, codec="latin1": _bytes(text, codec)
        raise _Forbidden(f"{module}.{name}")

    def persistent_load(self, pid: Any, /) -> Any:
        raise _Forbidden(f"persistent object {pid!r}")
