"""Names from records as file names and as text that a reader can trust."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from conformance.records.run import DIRTY

_SAFE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
#: Windows takes these for devices, whatever their suffix.
_DEVICES = re.compile(r"con|prn|aux|nul|com\d|lpt\d")
_KEPT = 40


def slug(*names: str) -> str:
    """A file name without suffix for `names`: stable, different for different names, and the name itself if it can be.

    Anything that a file system or an address could read as more than a name is replaced, and a digest of the whole
    keeps two such names apart. `~` stands in no name that is kept, so that no name can pass for a replaced one. Upper
    case counts as unsafe, since some file systems do not tell it from lower case.
    """
    joined = "-".join(names)
    if all(map(_SAFE.fullmatch, names)) and len(joined) <= 64 and len(names) == 1 and not _DEVICES.fullmatch(joined):
        return joined
    digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:12]
    readable = re.sub(r"[^a-z0-9]+", "-", joined.lower())[:_KEPT].strip("-")
    return f"{readable}~{digest}"


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit to show: short, whole, and whether the checkout held changes on top of it."""

    short: str
    whole: str
    dirty: bool

    def __str__(self) -> str:
        return f"{self.short}{DIRTY if self.dirty else ''}"


def commit(text: str | None) -> Commit | None:
    """The commit of a record; what does not read as one is shown as it is."""
    if not text:
        return None
    found = re.fullmatch(rf"([0-9a-f]{{40,64}})({DIRTY})?", text)
    return Commit(found[1][:12], found[1], bool(found[2])) if found else Commit(text, text, False)


def plain_link(text: str) -> str | None:
    """`text` if it is plainly an address on the web, and nothing that a browser would run."""
    return text if re.fullmatch(r"https?://[\w./#?=&%+~:@,-]+", text, re.ASCII) else None
