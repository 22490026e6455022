"""Files and names that a stranger may have written: read and followed, or refused before they do any harm."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

_MIB = 1 << 20
#: The names that Transformers gives to architectures, and nothing that leads to another folder.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")


def read_regular_file(path: Path, most: int, *, follow: bool = True) -> bytes:
    """What is in the ordinary file at `path`.

    Args:
        path: The file.
        most: Bytes that it may have. Parsers need a multiple of it, and some names, such as /dev/zero, have no end.
        follow: Whether the last part of `path` may be a link.

    Raises:
        OSError: It is not there, is no ordinary file, or is larger; `strerror` says which.
    """
    # Opened without waiting: a named pipe would otherwise hold the reader until somebody writes.
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    flags |= 0 if follow else getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, os.O_RDONLY | flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most // _MIB} MiB", str(path))
    return content


def json_file(directory: Path, architecture: str) -> Path:
    """The architecture's file in `directory`.

    Raises:
        ValueError: The name could lead out of it.
    """
    if not _PLAIN.fullmatch(architecture):
        raise ValueError(f"{architecture!r} cannot be the name of an architecture")
    return directory / f"{architecture}.json"
