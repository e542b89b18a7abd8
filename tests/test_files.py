"""Files appear complete or not at all, and only where a file belongs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sparsewood.errors import OutputError
from sparsewood.files import writable_directory, write_atomically


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_atomically(target, fail)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_links_stay_links(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    link.symlink_to(real)
    write_atomically(link, lambda path: path.write_text("new"))
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_pipes_and_directories_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for target in (pipe, tmp_path):
        with pytest.raises(OutputError, match="no regular file"):
            write_atomically(target, lambda path: path.write_text("x"))
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_files_get_the_permissions_of_the_process(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", lambda path: path.write_text("x"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_directory_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot write to directory"):
        writable_directory(tmp_path / "file" / "below")
