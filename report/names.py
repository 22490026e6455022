"""File names, commits and web addresses from the texts of records."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from conformance.records.run import DIRTY

_SAFE = re.compile(r"[a-z0-9][a-z0-9_+-]{0,63}")
#: Names of devices on Windows, with any suffix.
_DEVICES = re.compile(r"con|prn|aux|nul|com\d|lpt\d")
_KEPT = 40


def slug(*names: str) -> str:
    """A file name without suffix for `names`: stable, unique, and the name itself if that is safe.

    Characters that mean something in a path or an address are replaced, and a digest of the whole keeps two such names
    apart. `~` is in no safe name, so that none can equal a replaced one. Upper case is unsafe, because some file
    systems do not distinguish it from lower case.
    """
    joined = "-".join(names)
    if all(map(_SAFE.fullmatch, names)) and len(joined) <= 64 and len(names) == 1 and not _DEVICES.fullmatch(joined):
        return joined
    digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:12]
    readable = re.sub(r"[^a-z0-9]+", "-", joined.lower())[:_KEPT].strip("-")
    return f"{readable}~{digest}"


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit: its hash, short and whole, and whether the checkout had uncommitted changes."""

    short: str
    whole: str
    dirty: bool

    def __str__(self) -> str:
        return f"{self.short}{DIRTY if self.dirty else ''}"


def commit(text: str | None) -> Commit | None:
    """The commit of a record; text that is not a hash is kept as it is."""
    if not text:
        return None
    found = re.fullmatch(rf"([0-9a-f]{{40,64}})({DIRTY})?", text)
    return Commit(found[1][:12], found[1], bool(found[2])) if found else Commit(text, text, False)


def plain_link(text: str) -> str | None:
    """`text` if it is an http or https address without unusual characters; otherwise None."""
    return text if re.fullmatch(r"https?://[\w./#?=&%+~:@,-]+", text, re.ASCII) else None
