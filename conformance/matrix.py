"""`models_matrix.yaml` as frozen records: the architectures, and what is expected to fail and why."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from conformance.cells import Cell
from conformance.records import CellRecord
from conformance.suggest import unknown
from conformance.verdicts import Stage

ROOT = Path(__file__).resolve().parent.parent
MATRIX_PATH = ROOT / "models_matrix.yaml"
#: In an expectation's `subject`: the fault lies below the subject, so whoever exports meets it.
ANY_SUBJECT = "any"

#: In an expectation's `modes`: whatever the mode, and in cells that have none.
ANY_MODE = "any"

#: The reason that a command writes and a person replaces; no run accepts it.
TODO = "TODO"

_CONFIG = ConfigDict(extra="forbid")


def _told(reason: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
    if str(reason).strip().upper() != TODO:
        told: str = check(reason)
        return told
    if info.context != TODO:
        raise ValueError("the reason is still to be found: say why this fails, and link to where it is reported")
    return TODO


def _specifiers(when: Mapping[str, str]) -> Mapping[str, str]:
    for package, text in when.items():
        try:
            SpecifierSet(text)
        except InvalidSpecifier:
            raise ValueError(f"{package}: {text!r} is no version specifier such as '<=1.5.1'") from None
    return when


#: Why something is expected: a sentence, not a word.
Reason = Annotated[str, Field(min_length=20), WrapValidator(_told)]
#: The versions for which something is said, by package; those not named may be any.
When = Annotated[Mapping[Literal["torch", "transformers", "executorch"], str], AfterValidator(_specifiers)]


class Tier(StrEnum):
    """How much to run; each tier contains the ones before it."""

    SMOKE = "smoke"
    CORE = "core"
    FULL = "full"

    def includes(self, other: Tier) -> bool:
        """Whether a run of this tier takes a row of tier `other`."""
        order = list(Tier)
        return order.index(other) <= order.index(self)


class MatrixError(ValueError):
    """The matrix is wrong; the message says where and what to write instead."""


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Expectation:
    """A failure that is known, explained and, where possible, reported upstream.

    It matches the cells of its row with one of these clauses, backends and modes and this subject, where every package
    in `when` has a version that fits. The failure has to be the one described: same stage, same signature, and a
    relative error no larger than `at_most`.
    """

    clauses: Annotated[tuple[str, ...], Field(min_length=1)]
    backends: Annotated[tuple[str, ...], Field(min_length=1)]
    modes: Annotated[tuple[Literal["decode", "dynamic", "any"], ...], Field(min_length=1)]
    subject: str
    stage: Stage
    signature: str
    reason: Reason
    link: str | None = None
    at_most: float | None = None
    when: When = Field(default_factory=dict)

    def covers(self, cell: Cell | CellRecord) -> bool:
        """Whether this expectation speaks of `cell`, a cell of its own row."""
        return (
            cell.clause in self.clauses
            and cell.backend in self.backends
            and (cell.mode in self.modes or ANY_MODE in self.modes)
            and self.subject in (ANY_SUBJECT, cell.subject)
        )

    def applies_to(self, versions: Mapping[str, str]) -> bool:
        """Whether the installed versions are ones it was written for."""
        return _fit(self.when, versions)


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Undecodable:
    """Why an architecture cannot decode eagerly with a static cache at all, so that no clause applies to it.

    A run tries it all the same: the attempt has to end with this `signature`, or the row is wrong.
    """

    signature: str
    reason: Reason
    link: str | None = None
    when: When = Field(default_factory=dict)

    def applies_to(self, versions: Mapping[str, str]) -> bool:
        """Whether it is so with the installed versions."""
        return _fit(self.when, versions)


def _fit(when: Mapping[Any, str], versions: Mapping[str, str]) -> bool:
    return all(
        package in versions and SpecifierSet(text).contains(Version(versions[package]), prereleases=True)
        for package, text in when.items()
    )


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Row:
    """One architecture: how soon it runs, its kinds of cache layers, why it is here, and what is known to fail.

    `caches` are Transformers' layer types: full_attention, sliding_attention, conv, ... The fixture has two of each.
    """

    tier: Tier
    caches: tuple[str, ...]
    exercises: str
    undecodable: Undecodable | None = None
    expect: tuple[Expectation, ...] = ()


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Matrix:
    """All rows, by `model_type`."""

    schema_version: Literal[1]
    architectures: dict[str, Row]

    def in_tier(self, tier: Tier) -> tuple[str, ...]:
        """The architectures that a run of `tier` covers, in the file's order."""
        return tuple(name for name, row in self.architectures.items() if tier.includes(row.tier))

    def expectation(self, cell: Cell, versions: Mapping[str, str]) -> Expectation | None:
        """What is expected to go wrong in `cell`, with these package versions."""
        row = self.architectures.get(cell.architecture)
        found = [e for e in row.expect if e.covers(cell) and e.applies_to(versions)] if row else []
        return found[0] if found else None

    def unmatched(self, cells: Iterable[Cell]) -> list[str]:
        """A sentence for each expectation that names a clause, backend or mode with no cell among all `cells`."""
        by_row: dict[str, list[Cell]] = {}
        for cell in cells:
            by_row.setdefault(cell.architecture, []).append(cell)
        return [
            f"{name}: expect[{index}] names no cell: clause {clause}, backend {backend}, mode {mode}"
            for name, row in self.architectures.items()
            for index, expectation in enumerate(row.expect)
            for clause in expectation.clauses
            for backend in expectation.backends
            for mode in expectation.modes
            if not any(
                (cell.clause, cell.backend) == (clause, backend) and mode in (cell.mode, ANY_MODE)
                for cell in by_row.get(name, [])
            )
        ]


_MATRIX = TypeAdapter(Matrix)


def load_matrix(path: Path = MATRIX_PATH) -> Matrix:
    """Read and validate the matrix.

    Raises:
        MatrixError: The file is missing, is not YAML, or does not fit the schema; says file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MatrixError(f"{path}: {error.strerror}") from error
    return parsed(text, path)


def matrix_digest(path: Path = MATRIX_PATH) -> str:
    """A short name for what the matrix says: verdicts by one matrix do not go with those by another."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def parsed(text: str, path: Path = MATRIX_PATH, *, drafted: bool = False) -> Matrix:
    """The matrix that `text`, read from `path`, says; if `drafted`, a reason may be TODO."""
    try:
        document = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise MatrixError(f"{path}:{line}: {error.problem}") from error
    if not isinstance(document, CommentedMap):
        raise MatrixError(f"{path}:1: expected a mapping with the keys schema_version and architectures")
    try:
        return _MATRIX.validate_python(_plain(document), context=TODO if drafted else None)
    except ValidationError as error:
        # A misspelt key is missing under its right name too: tell the cause first.
        first = min(error.errors(), key=lambda found: found["type"] == "missing")
        keys = [part for part in first["loc"] if isinstance(part, str | int)]
        raise MatrixError(f"{path}:{_line(document, keys)}: {'.'.join(map(str, keys))}: {_explain(first)}") from error


def _explain(error: Any) -> str:
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        records = (Matrix, Row, Undecodable, Expectation)
        fields = {name for record in records for name in record.__dataclass_fields__}
        return unknown("key", str(error["loc"][-1]), fields)
    return f"{error['msg']} (found {error['input']!r})" if error["type"] != "missing" else "this key is missing"


def _line(document: Any, keys: list[str | int]) -> int:
    """The line of the deepest part of `keys` that the document holds, counted from 1."""
    line, node = 0, document
    for key in keys:
        if isinstance(node, CommentedMap) and key in node:
            line = node.lc.key(key)[0]
        elif isinstance(node, CommentedSeq) and isinstance(key, int) and key < len(node):
            line = node.lc.item(key)[0]
        else:
            break
        node = node[key]
    return line + 1


def _plain(node: Any) -> Any:
    if isinstance(node, CommentedMap):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value) for value in node]
    return node
