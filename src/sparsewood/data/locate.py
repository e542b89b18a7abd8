"""Where the files of a data set are, and whether they are the published ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sparsewood.errors import FileFormatError, SparsewoodError

__all__ = ["ROOT_VARIABLE", "Place", "Published", "Root", "check_sum", "read_bytes", "root_directory"]

ROOT_VARIABLE = "SPARSEWOOD_DATA"


@dataclass(frozen=True)
class Place:
    """Mark of a parameter that says where a published data set lies: the set is the same wherever that is."""


Root = Annotated[str | os.PathLike[str] | None, Place()]


@dataclass(frozen=True)
class Published:
    """A published data set: its name, the page it comes from, its folder below the root, and what must be there.

    `folders` are tried in order ("" is the root itself); the first is the one to use for new files.
    """

    title: str
    page: str
    folders: tuple[str, ...]
    files: str

    def folder(self, root: str | os.PathLike[str] | None, needed: Iterable[Iterable[str]]) -> Path:
        """The first of `folders` that has one file (or folder) of each of the alternatives in `needed`.

        Raises `SparsewoodError` that says which files are needed, from where, and where they go.
        """
        directory = root_directory(root, self)
        needed = [tuple(alternatives) for alternatives in needed]
        for name in self.folders:
            found = directory / name
            if all(any((found / file).exists() for file in alternatives) for alternatives in needed):
                return found
        raise SparsewoodError(f"{self.title} was not found. {self._searched(directory, needed)} {self._remedy()}")

    def _searched(self, directory: Path, needed: Iterable[tuple[str, ...]]) -> str:
        """What is missing where a part of the files is, else where was looked."""
        for name in self.folders:
            found = directory / name
            missing = [files for files in needed if not any((found / file).exists() for file in files)]
            if name and found.is_dir():
                return f"'{found}' lacks {', '.join(' or '.join(files) for files in missing)}."
        return f"Looked in {', '.join(repr(str(directory / name)) for name in self.folders)}."

    def _remedy(self) -> str:
        place = f"'<root>/{self.folders[0]}'" if self.folders[0] else "'<root>'"
        return (
            f"Get {self.files} from {self.page}, put them into {place}, and pass root= or set the environment variable "
            f"{ROOT_VARIABLE} to that root. Nothing is downloaded."
        )


def root_directory(root: str | os.PathLike[str] | None, wanted: Published) -> Path:
    """`root`, or else the directory that the environment variable SPARSEWOOD_DATA names.

    Raises `SparsewoodError` if there is neither, or it is no directory.
    """
    given = os.environ.get(ROOT_VARIABLE) if root is None else root
    if not given:
        raise SparsewoodError(
            f"Where is {wanted.title}? No root was given and {ROOT_VARIABLE} is not set. {wanted._remedy()}"
        )
    directory = Path(given).expanduser()
    if not directory.is_dir():
        origin = f" (from {ROOT_VARIABLE})" if root is None else ""
        raise SparsewoodError(f"The data root '{directory}'{origin} is not a directory. {wanted._remedy()}")
    return directory


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises `FileFormatError` with the system's reason."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"Cannot read '{path}': {error.strerror or error}.") from error


def check_sum(path: Path, content: bytes, known: Iterable[str]) -> None:
    """Raise `FileFormatError` unless the MD5 of `content` is one of the published ones."""
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    expected = tuple(known)
    if got not in expected:
        raise FileFormatError(
            f"'{path}' is not the published file: the MD5 of its content is {got}, expected {' or '.join(expected)}. "
            "Get it again, or pass verify=False if you know what it is."
        )
