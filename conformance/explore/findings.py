"""Variations that fail: as they are found, and as a person has reviewed and pinned them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.core.files import architecture_file, atomic_write, read_regular_file
from conformance.core.paths import PINS, ROOT
from conformance.core.validation import first_problem
from conformance.models.variations import Variation

FINDS = ROOT / "build" / "conformance" / "finds"

#: Largest file that is read; a find has 1 kB.
_MOST_BYTES = 4 << 20

#: Positions that a find's cache may have; `explore` tries up to 48.
_LONGEST = 4096

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class _Varied:
    """A variation and the cell that it was judged in, without the architecture."""

    subject: str
    backend: str
    mode: Mode
    clause: str
    overrides: dict[str, Any]
    max_cache_len: Annotated[int, Field(ge=1, le=_LONGEST)]

    @property
    def variation(self) -> Variation:
        """What differs from the fixture."""
        return Variation(self.overrides, self.max_cache_len)


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Find(_Varied):
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


_FIND = TypeAdapter(Find)
_PINS = TypeAdapter(tuple[Pinned, ...])


def write_find(directory: Path, find: Find, place: Path | None = None) -> Path:
    """Put `find` into a file of its own, whole or not at all; one that holds the same is used again.

    Args:
        directory: Where finds are kept; it need not exist.
        find: What was found.
        place: A file that holds an earlier form of it, and is replaced.
    """
    number = 1
    while place is None:
        candidate = directory / f"{find.architecture}-{number}.json"
        if not candidate.exists() or _same(candidate, find):
            place = candidate
        number += 1
    atomic_write(place, _FIND.dump_json(find, indent=2) + b"\n")
    return place


def read_find(path: Path) -> Find:
    """The find in `path`.

    Raises:
        ValueError: It is not what `write_find` writes.
    """
    return _read(_FIND, path, "find")


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
    ordered = tuple(sorted(pins, key=_place))
    atomic_write(path, json.dumps(_PINS.dump_python(ordered, mode="json"), indent=2).encode() + b"\n")
    return path


def pinned(pins: Iterable[Pinned], find: Find, signature: str | None) -> tuple[Pinned, ...]:
    """`pins` with `find` among them, as it ended when it was judged again: with a signature, or well."""
    new = Pinned(
        subject=find.subject,
        backend=find.backend,
        mode=find.mode,
        clause=find.clause,
        overrides=find.overrides,
        max_cache_len=find.max_cache_len,
        signature=signature,
    )
    kept = tuple(pins)
    if any(_place(pin) == _place(new) for pin in kept):
        raise ValueError(f"{find.architecture}: {new.variation} is pinned already for {find.cell.id}")
    return (*kept, new)


def _place(varied: _Varied) -> tuple[str, ...]:
    return varied.subject, varied.backend, varied.mode, varied.clause, varied.variation.key


def _same(path: Path, find: Find) -> bool:
    try:
        other = read_find(path)
    except ValueError:
        return False
    return (_place(other), other.signature) == (_place(find), find.signature)


def _read(adapter: TypeAdapter[T], path: Path, kind: str) -> T:
    try:
        return adapter.validate_json(read_regular_file(path, _MOST_BYTES))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise ValueError(f"{path} is no {kind}: {first_problem(error)}") from error
