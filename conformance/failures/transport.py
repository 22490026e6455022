"""Failure bundles on their way from another machine: a folder of plain files as text that a pytest report can carry."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from pathlib import Path

from conformance.core.cells import Cell
from conformance.core.errors import InputError
from conformance.core.files import replace_folder
from conformance.records.bundle import folder_name


def packed(folder: Path) -> dict[str, str]:
    """The files of a bundle, by name."""
    return {
        path.name: base64.b85encode(zlib.compress(path.read_bytes())).decode("ascii")
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def unpack(directory: Path, cell: Cell, files: Mapping[str, str]) -> Path:
    """Put the bundle of `cell` into its folder in `directory`, whole or not at all.

    Raises:
        ValueError: A name is not that of a file in the folder itself.
    """
    for name in files:
        if not name or name in {".", ".."} or "/" in name or "\\" in name:
            raise InputError("invalid-bundle", f"a bundle cannot have a file called {name!r}")
    folder = directory / folder_name(cell)
    replace_folder(folder, {name: zlib.decompress(base64.b85decode(text)) for name, text in files.items()})
    return folder
