"""Variations that fail: as the search finds them, and as a person has reviewed and pinned them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.core.errors import InputError
from conformance.core.files import architecture_file, atomic_write, read_regular_file
from conformance.core.paths import PINS
from conformance.core.validation import first_problem
from conformance.matrix.variations import LONGEST_CACHE
from conformance.models.variations import Variation

#: Where they are written, below the current folder.
FINDINGS = Path("build/conformance/findings")

#: Largest file that is read; a finding has 1 kB.
_MOST_BYTES = 4 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class _Varied:
    """A variation and the cell that it was judged in, without the architecture."""

    subject: str
    backend: str
    mode: Mode
    clause: str
    overrides: dict[str, Any]
    max_cache_len: Annotated[int, Field(ge=1, le=LONGEST_CACHE)]

    @property
    def variation(self) -> Variation:
        """The difference from the fixture."""
        return Variation(self.overrides, self.max_cache_len)


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Finding(_Varied):
    """A variation that fails, with the fewest changes that Hypothesis could find.

    Args:
        signature, message: The failure; see `conformance.core.verdicts.CellFailedError`.
        versions: Installed packages when it was found.
        seed: What `--seed` repeats the search with.
    """

    schema_version: Literal[1] = 1
    architecture: str
    signature: str
    message: str
    versions: dict[str, str]
    seed: int

    @property
    def cell(self) -> Cell:
        """The failing cell."""
        return Cell(self.architecture, self.subject, self.backend, self.mode, self.clause)


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Pinned(_Varied):
    """A variation that is judged again whenever the suite itself is tested.

    Args:
        signature: How it is known to fail, for a cause that lies upstream; None where it has to pass.
        reason: What goes wrong and why; a failure has to have one.
        link: Where it is reported or fixed; empty if nowhere.
    """

    signature: str | None = None
    reason: str = ""
    link: str = ""


_FINDING = TypeAdapter(Finding)
_PINS = TypeAdapter(tuple[Pinned, ...])


def write_finding(directory: Path, finding: Finding, path: Path | None = None) -> Path:
    """Put `finding` into a file of its own, whole or not at all; one that holds the same is used again.

    Args:
        directory: Where findings are kept; it need not exist.
        finding: What to write.
        path: A file that holds an earlier form of it, and is replaced.
    """
    number = 1
    while path is None:
        candidate = directory / f"{finding.architecture}-{number}.json"
        if not candidate.exists() or _same(candidate, finding):
            path = candidate
        number += 1
    atomic_write(path, _FINDING.dump_json(finding, indent=2) + b"\n")
    return path


def read_finding(path: Path) -> Finding:
    """The finding in `path`.

    Raises:
        ValueError: It is not what `write_finding` writes.
    """
    return _read(_FINDING, path, "finding")


def read_pins(architecture: str, directory: Path = PINS) -> tuple[Pinned, ...]:
    """The architecture's pinned variations; none where it has no file.

    Raises:
        ValueError: The file is not what `write_pins` writes.
    """
    path = architecture_file(directory, architecture)
    return _read(_PINS, path, "list of pinned variations") if path.exists() else ()


def write_pins(architecture: str, pins: Iterable[Pinned], directory: Path = PINS) -> Path:
    """Write the architecture's pinned variations, sorted, so that a change of one is a change of its lines only."""
    path = architecture_file(directory, architecture)
    ordered = tuple(sorted(pins, key=_key))
    atomic_write(path, json.dumps(_PINS.dump_python(ordered, mode="json"), indent=2).encode() + b"\n")
    return path


def pinned(pins: Iterable[Pinned], finding: Finding, signature: str | None) -> tuple[Pinned, ...]:
    """`pins` with `finding` among them, with the `signature` that it now fails with; None where it passes."""
    new = Pinned(
        subject=finding.subject,
        backend=finding.backend,
        mode=finding.mode,
        clause=finding.clause,
        overrides=finding.overrides,
        max_cache_len=finding.max_cache_len,
        signature=signature,
    )
    known = tuple(pins)
    if any(_key(pin) == _key(new) for pin in known):
        raise InputError(
            "already-pinned", f"{finding.architecture}: {new.variation} is pinned already for {finding.cell.id}"
        )
    return (*known, new)


def _key(varied: _Varied) -> tuple[str, ...]:
    return varied.subject, varied.backend, varied.mode, varied.clause, varied.variation.key


def _same(path: Path, finding: Finding) -> bool:
    try:
        other = read_finding(path)
    except ValueError:
        return False
    return (_key(other), other.signature) == (_key(finding), finding.signature)


def _read(adapter: TypeAdapter[T], path: Path, kind: str) -> T:
    try:
        return adapter.validate_json(read_regular_file(path, _MOST_BYTES))
    except OSError as error:
        raise InputError.of_file(path, error) from error
    except ValidationError as error:
        raise InputError("invalid-finding", f"{path} is not a {kind}: {first_problem(error)}") from error
