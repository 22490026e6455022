"""Checks whether a file is a run record."""

from __future__ import annotations

from pathlib import Path

from conformance.core.text import plural

from .loading import load


def validate_record(path: Path) -> str:
    """What the record at `path` is, such as ``a run record of 12 cells``.

    Raises:
        ReportError: The file cannot be read, is not a run record, or contradicts itself.
    """
    return f"a run record of {plural(len(load(path).cells), 'cell')}"
