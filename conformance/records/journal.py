"""The file that a run writes until it ends: a journal of JSON lines, which `load_run` reads in place of a record.

The first line is a header, then comes one line a verdict, and the footer makes it whole. The record is written from it
when the run ends; a journal remains where a run was killed.
"""

from __future__ import annotations

import datetime
import errno
import itertools
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter

from conformance.core.cells import Cell
from conformance.core.files import atomic_write
from conformance.records.run import (
    COMPRESSED,
    SCHEMA_VERSION,
    CellRecord,
    Environment,
    JournalFooter,
    JournalHeader,
    RunInfo,
)

_Line = JournalHeader | CellRecord | JournalFooter
_LINE: TypeAdapter[_Line] = TypeAdapter(_Line)


class Journal:
    """Appends a line for each verdict as it arrives. A later line of a cell replaces an earlier one.

    Args:
        path: The file, which is replaced.
        info: The run.
        environment: Its environment.
        planned: The cells that it will judge.
        cells: Verdicts from before the run was interrupted.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        info: RunInfo,
        environment: Environment,
        planned: Iterable[Cell] = (),
        cells: Iterable[CellRecord] = (),
    ) -> None:
        self.path = path
        content = _encoded(JournalHeader(SCHEMA_VERSION, info, environment, tuple(planned)), *cells)
        atomic_write(path, content)
        self._file = path.open("ab", buffering=0)
        #: The size of the file up to the end of its last whole line.
        self._size = len(content)
        self._unwritten = b""

    def add(self, *lines: CellRecord | JournalFooter) -> None:
        """Append verdicts, or the footer.

        Raises:
            OSError: They cannot be written, as on a full disk. The journal is as it was; the next call writes them too.
        """
        self._unwritten += _encoded(*lines)
        remaining = self._unwritten
        try:
            while remaining:
                remaining = remaining[self._file.write(remaining) :]
            self._size, self._unwritten = self._size + len(self._unwritten), b""
        except BaseException:
            self._file.truncate(self._size)  # the next line would otherwise be appended to half a line
            raise

    def remove(self) -> None:
        """Delete the file, because the record has everything."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def move_aside(path: Path) -> Path | None:
    """Rename the file of an earlier run, so that none replaces it: `run-20261129T182202Z.json`, by when it was written.

    Returns:
        The new path; None if there is no such file.

    Raises:
        OSError: It cannot be renamed.
    """
    if not path.exists():
        return None
    if not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    suffix = next((each for each in (".json", ".jsonl", f".json{COMPRESSED}") if path.name.endswith(each)), "")
    stem = f"{path.name.removesuffix(suffix)}-{written:%Y%m%dT%H%M%SZ}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return path.rename(next(new for name in names if not (new := path.with_name(name + suffix)).exists()))


def _encoded(*lines: _Line) -> bytes:
    return b"".join(_LINE.dump_json(line) + b"\n" for line in lines)
