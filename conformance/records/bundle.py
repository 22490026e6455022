"""Failure bundles: everything about one failing cell, in a folder that can be sent to others.

A bundle is data. Reading one checks it against this module's types, runs no code, and opens no file outside it. Its
exporter is code: `conformance.failures.replay` asks before importing that.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.core.errors import InputError
from conformance.core.files import read_regular_file, replace_folder
from conformance.core.text import plural
from conformance.core.validation import first_problem
from conformance.core.verdicts import Stage

SCHEMA_VERSION: Literal[1] = 1
#: The file that makes a folder a bundle.
FACTS = "bundle.json"
#: The option that allows a command to import the exporter that a bundle or a finding names.
CONSENT = "--allow-import"
#: Largest `bundle.json` that is read, in bytes; a real one has some 10 kB.
_MOST_BYTES = 4 << 20
#: Longest name of a folder without the digits that keep it unique; file systems allow 255.
_MOST_CHARACTERS = 150
_STRAY = re.compile(r"[^\w.+-]+")


class BundleError(InputError):
    """A folder is not a valid bundle; the message says why."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class BundledCall:
    """One call of a decode script: token ids at consecutive cache positions from `position` on."""

    position: Annotated[int, Field(ge=0)]
    tokens: Annotated[tuple[int, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Bundle:
    """The content of `bundle.json`.

    Args:
        architecture, subject, backend, mode, clause: The cell; see `conformance.core.cells.Cell`.
        stage, signature, message: The failure, as in the run record.
        versions: Installed packages when it failed.
        config: The model's config, as in `fixtures/configs/`; null if Transformers lacks the architecture.
        max_cache_len: Positions in the cache, in tokens.
        calls: The shortest decode script that fails, if there is one.
        examples: The number of scripts that were generated in addition to the pinned ones.
        tolerance: The largest error of a logit that counts as equal, as a share of the logits' scale.
        logits_scale: The largest absolute logit of the oracle over a full cache; null if there is no oracle.
        diverged: The first wrong step from the wrapper to the delegates, if it was located; `divergence.json` has the
            details.
        settings: What the model was built with beside its config: its dtype, its rows a call, the gain of its logits.
    """

    schema_version: Literal[1]
    architecture: str
    subject: str | None
    backend: str
    mode: Mode | None
    clause: str
    stage: Stage | None
    signature: str | None
    message: str
    versions: dict[str, str]
    config: dict[str, Any] | None
    max_cache_len: Annotated[int, Field(ge=1)]
    calls: tuple[BundledCall, ...] | None
    examples: Annotated[int, Field(ge=1)]
    tolerance: Annotated[float, Field(gt=0)]
    logits_scale: float | None
    diverged: str | None = None
    settings: dict[str, str | int | float] = field(default_factory=dict)

    @property
    def cell(self) -> Cell:
        """The failing cell."""
        return Cell(self.architecture, self.subject, self.backend, self.mode, self.clause)


_BUNDLE = TypeAdapter(Bundle)


def folder_name(cell: Cell) -> str:
    """The name of the cell's folder: its id, with a digest if characters had to be replaced."""
    name = cell.id.replace("/", "--")
    plain = _STRAY.sub("-", name).strip(".")[:_MOST_CHARACTERS]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def write_bundle(directory: Path, bundle: Bundle, files: Mapping[str, bytes]) -> Path:
    """Write the bundle to its own folder in `directory`; one of an earlier run is replaced.

    Args:
        directory: The folder of all bundles; it need not exist.
        bundle: The facts.
        files: Other files for the folder, by name.

    Returns:
        The bundle's folder.
    """
    folder = directory / folder_name(bundle.cell)
    replace_folder(folder, {**files, FACTS: _BUNDLE.dump_json(bundle, indent=2) + b"\n"})
    return folder


def read_bundle(folder: Path) -> Bundle:
    """The bundle in `folder`.

    Raises:
        BundleError: There is none, or it is invalid.
    """
    path = folder / FACTS
    try:
        text = read_regular_file(path, _MOST_BYTES, follow=False)
    except OSError as error:
        within = sorted(each.parent.name for each in folder.glob(f"*/{FACTS}"))
        problem = f"it holds {plural(len(within), 'bundle')}; name one, such as {folder / within[0]}" if within else ""
        raise BundleError(
            "invalid-bundle",
            f"{folder} is not a failure bundle: {problem or f'cannot read {FACTS}: {error.strerror}'}",
        ) from error
    try:
        return _BUNDLE.validate_json(text)
    except ValidationError as error:
        raise BundleError("invalid-bundle", f"{path} is not a failure bundle: {first_problem(error)}") from error
