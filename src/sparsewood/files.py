"""Writing files so that they appear complete or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from sparsewood.errors import OutputError


def writable_directory(path: str | os.PathLike[str]) -> Path:
    """Create `path` if needed and prove that a file can be written there, before hours of work depend on it.

    Raises `OutputError` naming the path and the system's reason.
    """
    directory = Path(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise OutputError(
            f"Cannot write to directory '{directory}': {error.strerror or error}. "
            "Choose another directory or change its permissions."
        ) from error
    return directory


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Call `write(temporary_path)`, then move the result to `path` in one step.

    The temporary file keeps the ending of `path`; it is removed if `write` raises, and `path` is then as it was. A link
    is followed. Raises `OutputError` if `path` cannot be written or is a directory, device or pipe.
    """
    target = Path(path).resolve()  # a link stays a link
    if target.exists() and not target.is_file():
        raise OutputError(f"Cannot write file '{target}': it exists and is no regular file. Choose another path.")
    temporary = target.with_name(f".{target.stem}-{secrets.token_hex(8)}{target.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # the kernel applies the umask
    except OSError as error:
        raise OutputError(f"Cannot write file '{target}': {error.strerror or error}.") from error
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"Cannot write file '{target}': {error.strerror or error}.") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
