"""`models_matrix.yaml` as frozen records: the architectures, and what is expected to fail and why."""

from __future__ import annotations

import hashlib
import itertools
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
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from conformance.core.cells import Cell
from conformance.core.contract import Chapter
from conformance.core.files import read_regular_file
from conformance.core.paths import ROOT
from conformance.core.suggest import unknown
from conformance.core.text import one_line
from conformance.core.validation import VersionText
from conformance.core.verdicts import Stage
from conformance.records.run import CellRecord

MATRIX_PATH = ROOT / "models_matrix.yaml"
#: In an expectation's `subject`: the fault lies below the subject, so whoever exports meets it.
ANY_SUBJECT = "any"

#: In an expectation's `modes`: whatever the mode, and in cells that have none.
ANY_MODE = "any"

#: The reason that a command writes and a person replaces; no run accepts it.
TODO = "TODO"

#: Characters of a sentence about what is wrong, which may quote all of it.
_SHOWN = 500
#: Bytes that the file may have; the one of 189 architectures has 70 kB.
_MOST_BYTES = 4 << 20
#: Values that it may come to once each alias is written out, and how deep they may be nested. The one of 189
#: architectures has 8,000, 5 deep; seven lines of aliases to aliases can come to millions.
_MOST_VALUES, _DEEPEST = 500_000, 20

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
        return fits(self.when, versions)


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
        return fits(self.when, versions)


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Retired:
    """Since which version Transformers no longer registers an architecture. With older ones, it is judged if named."""

    since: VersionText
    reason: Reason
    link: str | None = None


def fits(when: When, versions: Mapping[str, str]) -> bool:
    """Whether these package versions are ones that `when` speaks of."""
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
    retired: dict[str, Retired] = Field(default_factory=dict)

    def in_tier(self, tier: Tier) -> tuple[str, ...]:
        """The architectures that a run of `tier` covers, in the file's order."""
        return tuple(name for name, row in self.architectures.items() if tier.includes(row.tier))

    def retired_after(self, transformers: str) -> frozenset[str]:
        """The architectures without a row that were retired after this version of Transformers."""
        here = Version(transformers)
        return frozenset(
            name
            for name, retired in self.retired.items()
            if name not in self.architectures and here < Version(retired.since)
        )

    def expectation(self, cell: Cell, versions: Mapping[str, str]) -> Expectation | None:
        """What is expected to go wrong in `cell`, with these package versions."""
        row = self.architectures.get(cell.architecture)
        found = [e for e in row.expect if e.covers(cell) and e.applies_to(versions)] if row else []
        return found[0] if found else None

    def known_limit(
        self, cell: Cell, stage: Stage | None, signature: str | None, versions: Mapping[str, str]
    ) -> Expectation | None:
        """What any row has to say of a failure in lowering that does not depend on who exports what.

        It is for a model that has no row: what a backend cannot do is known from others. Of a wrong result nothing can
        be known in this way: its signature says too little of the cause.
        """
        if not cell.clause.startswith(Chapter.LOW.name):
            return None
        everywhere = (each for row in self.architectures.values() for each in row.expect)
        return next(
            (
                each
                for each in everywhere
                if each.subject == ANY_SUBJECT
                and each.covers(cell)
                and (each.stage, each.signature) == (stage, signature)
                and each.applies_to(versions)
            ),
            None,
        )

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


def load_matrix(path: Path = MATRIX_PATH, *, drafted: bool = False) -> Matrix:
    """Read and validate the matrix; if `drafted`, a reason may be TODO.

    Raises:
        MatrixError: The file is missing, is not YAML, or does not fit the schema; says file, line and key.
    """
    try:
        text = read_regular_file(path, _MOST_BYTES).decode("utf-8")
    except OSError as error:
        raise MatrixError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MatrixError(f"{path}: it is no text in UTF-8") from error
    return parsed(text, path, drafted=drafted)


def matrix_digest(path: Path = MATRIX_PATH) -> str:
    """A short name for what the matrix says: verdicts by one matrix do not go with those by another."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def parsed(text: str, path: Path = MATRIX_PATH, *, drafted: bool = False) -> Matrix:
    """The matrix that `text`, read from `path`, says; if `drafted`, a reason may be TODO."""
    document = _document(text, path)
    if not isinstance(document, CommentedMap):
        raise MatrixError(f"{path}:1: expected a mapping with the keys schema_version and architectures")
    try:
        plain = _plain(document)
    except ValueError as error:
        raise MatrixError(f"{path}: {error}") from error
    try:
        return _MATRIX.validate_python(plain, context=TODO if drafted else None)
    except ValidationError as error:
        # A misspelt key is missing under its right name too: tell the cause first.
        first = min(error.errors(), key=lambda found: found["type"] == "missing")
        keys = [part for part in first["loc"] if isinstance(part, str | int)]
        told = one_line(f"{'.'.join(map(str, keys))}: {_explain(first)}", _SHOWN)
        raise MatrixError(f"{path}:{_line(document, keys)}: {told}") from error


def _document(text: str, path: Path) -> Any:
    """What ruamel.yaml makes of `text`: values with their lines, and nothing of any other class, whatever its tags."""
    try:
        return YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise MatrixError(f"{path}:{line}: {one_line(str(error.problem), _SHOWN)}") from error
    except RecursionError:
        raise MatrixError(f"{path}: it is nested too deep") from None
    except (YAMLError, ValueError, TypeError) as error:
        # Of a character that YAML forbids, and of a scalar that its tag does not fit.
        raise MatrixError(f"{path}: no YAML: {one_line(str(error), _SHOWN)}") from error


def _explain(error: Any) -> str:
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        records = (Matrix, Row, Undecodable, Retired, Expectation)
        fields = {name for record in records for name in record.__dataclass_fields__}
        return unknown("key", str(error["loc"][-1]), fields)
    if error["type"] == "missing":
        return "this key is missing"
    return f"{error['msg']} (found {error['input']!r})"


def _line(document: Any, keys: list[str | int]) -> int:
    """The line of the deepest part of `keys` that the document holds, counted from 1."""
    line, node = 0, document
    for key in keys:
        if isinstance(node, CommentedMap) and key in node:
            place = node.lc.key(key)
        elif isinstance(node, CommentedSeq) and isinstance(key, int) and key < len(node):
            place = node.lc.item(key)
        else:
            break
        line = place[0] if place else line  # an !!omap does not know its lines
        node = node[key]
    return line + 1


def _plain(document: Any) -> Any:
    """Mappings and lists of Python's own, with each alias written out.

    Raises:
        ValueError: They would be more or deeper than any matrix is.
    """
    values = itertools.count(1)

    def plain(node: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
        if next(values) > _MOST_VALUES:
            raise ValueError(f"with its aliases written out, it has more than {_MOST_VALUES} values")
        if isinstance(node, CommentedMap):
            return {key: plain(value, depth + 1) for key, value in node.items()}
        if isinstance(node, CommentedSeq):
            return [plain(value, depth + 1) for value in node]
        return node

    return plain(document, 0)
