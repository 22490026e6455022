"""Writing files and folders as a whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from conformance.core.files import atomic_write, replace_folder

pytestmark = pytest.mark.unit


def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [*path.parent.iterdir()] == [path]


def test_a_file_has_the_permissions_that_the_process_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file", b"")
        replace_folder(tmp_path / "folder", {"file": b""})
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"file": 0o640, "folder": 0o750}


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"one")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, b"two")
    assert path.read_bytes() == b"one"
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_is_replaced_with_all_that_was_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    replace_folder(folder, {"a": b"1", "b": b"2"})
    replace_folder(folder, {"b": b"3"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"b": b"3"}
    assert [*folder.parent.iterdir()] == [folder]
    with pytest.raises(FileNotFoundError):
        replace_folder(folder, {"no/such": b""})
    assert [*folder.parent.iterdir()] == [folder]
    assert [path.name for path in folder.iterdir()] == ["b"]
