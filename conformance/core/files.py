"""Read files that others may have written, and replace files and folders as a whole."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from conformance.core.errors import InputError

#: The end of a temporary file's name while `atomic_write` is writing it.
PARTIAL = ".partial"

_MIB = 1 << 20
#: The names that Transformers gives to architectures, and nothing that leads to another folder.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")


def read_regular_file(path: Path, max_bytes: int, *, follow: bool = True) -> bytes:
    """The content of the regular file at `path`.

    Args:
        path: The file.
        max_bytes: The most that is read. Parsers need a multiple of it, and some names, such as /dev/zero, have no end.
        follow: Whether the last part of `path` may be a link.

    Raises:
        OSError: The file does not exist, is not a regular file, or is larger; `strerror` says which.
    """
    # Opened without waiting: a named pipe would otherwise block the reader until another process writes.
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    flags |= 0 if follow else getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, os.O_RDONLY | flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {max_bytes // _MIB} MiB", str(path))
    return content


def atomic_write(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Replace the file at `path`, whose folder need not exist: readers see all of the old content or all of the new.

    Several processes may write the same path at once; the last one wins. A writer that is killed leaves its temporary
    file, `.NAME.*.partial` in the same folder.

    Args:
        path: The file.
        content: Its new content.
        sync: Whether to wait until the content is on the disk, because what it replaces will be deleted.

    Raises:
        OSError: It cannot be written, as on a full disk. The file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()  # on a full disk, half of it would take the room that is missing
        raise


def replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace `folder` by one with these files, by name, and no others. It never holds only some of them.

    Raises:
        OSError: It cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()  # with the usual permissions: those of a temporary folder are for its owner alone
        for name, content in files.items():
            (whole / name).write_bytes(content)
        shutil.rmtree(folder, ignore_errors=True)
        whole.rename(folder)


def architecture_file(directory: Path, architecture: str) -> Path:
    """The path of an architecture's JSON file in `directory`.

    Raises:
        ValueError: The name could lead out of the folder.
    """
    if not _PLAIN.fullmatch(architecture):
        raise InputError("invalid-name", f"{architecture!r} cannot be the name of an architecture")
    return directory / f"{architecture}.json"
