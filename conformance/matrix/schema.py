"""The matrix: `models_matrix.yaml`, one row an architecture, and the causes in `known_failures/` that its rows name."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from packaging.version import Version
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from conformance.core.cells import Cell, row_name, split_row
from conformance.core.contract import Chapter
from conformance.core.files import atomic_write
from conformance.core.paths import ROOT
from conformance.core.suggest import unknown
from conformance.core.validation import VersionText
from conformance.core.verdicts import STAGES, Stage
from conformance.matrix.known_failures import (
    TODO,
    Blocker,
    Cause,
    CellLike,
    Limit,
    Reason,
    Undecodable,
    Violation,
)
from conformance.matrix.variations import FOLDER, Variation, VariedRow, variation_text
from conformance.matrix.yaml_file import MatrixError, YamlFile, block, flow, folded, read_yaml

MATRIX_PATH = ROOT / "models_matrix.yaml"
#: Beside the matrix: one file for each owner of causes.
CAUSES = "known_failures"

_CONFIG = ConfigDict(extra="forbid")
_ID = r"[a-z0-9][a-z0-9_.-]*"


class Tier(StrEnum):
    """How much to run; each tier contains the ones before it."""

    SMOKE = "smoke"
    CORE = "core"
    FULL = "full"

    def includes(self, other: Tier) -> bool:
        """Whether a run of this tier includes a row of tier `other`."""
        order = list(Tier)
        return order.index(other) <= order.index(self)


@validated(frozen=True, slots=True, config=_CONFIG)
class Row:
    """One architecture.

    Args:
        tier: How soon it runs.
        caches: Transformers' names of its kinds of cache layers; the fixture has two of each.
        exercises: Why it is here.
        known: The ids of the causes of its known failures.
    """

    tier: Tier
    caches: tuple[str, ...]
    exercises: str
    known: tuple[str, ...] = ()


@validated(frozen=True, slots=True, config=_CONFIG)
class Retired:
    """Architectures that Transformers no longer registers. With older versions they are judged only if named."""

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    since: VersionText
    reason: Reason
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Expectation:
    """The expectation of a cause for one cell.

    Args:
        cause: The cause's id.
        signature: How the cell fails.
        reason: Why.
        link: Where that is reported or fixed.
        at_most: The largest error allowed, as a share of the logits' scale.
        required: Whether a pass is stale. A clause that makes an export of its own may pass where exporting is blocked.
        without_cache: Whether eager decoding fails so, and the forward pass without cache judges the programs instead.
    """

    cause: str
    signature: str
    reason: str
    link: str | None = None
    at_most: float | None = None
    required: bool = True
    without_cache: bool = False


@dataclass(frozen=True, slots=True)
class Matrix:
    """All rows by `model_type`, and all causes by id.

    Args:
        architectures: The rows.
        causes: The causes that rows name.
        retired: Architectures that Transformers no longer registers.
        owners: By a cause's id, the name of the file that it is in, without its suffix.
        variations: By name, what is changed of some fixtures.
    """

    architectures: Mapping[str, Row]
    causes: Mapping[str, Cause] = field(default_factory=dict)
    retired: tuple[Retired, ...] = ()
    owners: Mapping[str, str] = field(default_factory=dict)
    variations: Mapping[str, Variation] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, Row]:
        """All rows by name, those of variations among them, each behind its architecture's."""
        rows = {}
        for name in self.architectures:
            for each in (name, *self.varied(name)):
                rows[each] = self.row(each)
        return {name: row for name, row in rows.items() if row}

    def row(self, name: str) -> Row | None:
        """The row called `name`, of an architecture or of a variation of one."""
        architecture, variation = split_row(name)
        row = self.architectures.get(architecture)
        if row is None or variation is None:
            return row
        changed = self.variations.get(variation)
        if changed is None or architecture not in changed.rows:
            return None
        own = changed.rows[architecture]
        known = (*(each for each in row.known if each not in own.without), *own.known)
        tier = Tier.CORE if architecture in changed.core else Tier.FULL
        return dataclasses.replace(row, tier=tier, exercises=changed.what, known=known)

    def overrides(self, architecture: str) -> tuple[Mapping[str, Any], ...]:
        """Of each variation of an architecture's fixture, its changes of the decoder's config."""
        rows = (variation.rows.get(architecture) for variation in self.variations.values())
        return tuple(row.config for row in rows if row and row.config)

    def varied(self, architecture: str, names: Iterable[str] | None = None) -> tuple[str, ...]:
        """The rows of an architecture's variations: of all of them, or of those with these `names`."""
        chosen = self.variations if names is None else names
        return tuple(row_name(architecture, name) for name in chosen if architecture in self.variations[name].rows)

    def in_tier(self, tier: Tier) -> tuple[str, ...]:
        """The architectures that a run of `tier` covers, in the file's order."""
        return tuple(name for name, row in self.architectures.items() if tier.includes(row.tier))

    def retired_after(self, transformers: str) -> frozenset[str]:
        """The architectures without a row that were retired after this version of Transformers."""
        here = Version(transformers)
        later = (retired for retired in self.retired if here < Version(retired.since))
        return frozenset(name for retired in later for name in retired.names if name not in self.architectures)

    def causes_of(self, architecture: str) -> dict[str, Cause]:
        """The causes that the architecture's row names, by id; none, if it has no row."""
        row = self.row(architecture)
        return {name: self.causes[name] for name in row.known} if row else {}

    def expectation(self, cell: CellLike, versions: Mapping[str, str]) -> Expectation | None:
        """How `cell` is known to fail with these package versions.

        Of several patterns, one that requires the failure counts first; of these, one of the earliest stage; of these,
        one for this row alone; of these, a stage that is blocked.
        """
        found = [
            (_precedence(pattern, cell), name, pattern)
            for name, cause in self.causes_of(cell.architecture).items()
            if cause.concerns(cell.subject) and cause.applies_to(versions)
            for pattern in patterns_for(cause, cell.architecture)
            if pattern.covers(cell)
        ]
        if not found:
            return None
        _, name, pattern = min(found, key=lambda each: each[0])
        return self._expectation(name, pattern, cell)

    def undecodable(self, architecture: str, versions: Mapping[str, str]) -> Expectation | None:
        """Why the architecture cannot decode eagerly with a static cache, if that is known."""
        for name, cause in self.causes_of(architecture).items():
            absent = [
                each for each in cause.fails if isinstance(each, Undecodable) and is_about_row(each, architecture)
            ]
            if absent and cause.applies_to(versions):
                return Expectation(
                    name, absent[0].signature, cause.reason, cause.link, without_cache=absent[0].without_cache
                )
        return None

    def judged_without_cache(self, versions: Mapping[str, str]) -> frozenset[str]:
        """The architectures whose programs the forward pass without cache judges."""
        known = {name: self.undecodable(name, versions) for name in self.architectures}
        return frozenset(name for name, expectation in known.items() if expectation and expectation.without_cache)

    def known_limit(
        self,
        cell: Cell,
        stage: Stage | None,
        signature: str | None,
        versions: Mapping[str, str],
        limits: Container[Limit],
    ) -> Expectation | None:
        """The known failure in lowering that a cause explains in a model that has no row, by its `limit`.

        Args:
            cell: The cell that failed.
            stage: Where it failed.
            signature: How it failed.
            versions: Installed packages.
            limits: Those of the model; see `conformance.models.limits`.
        """
        if not cell.clause.startswith(Chapter.LOW.name) or stage is None:
            return None
        for name, cause in self.causes.items():
            if cause.limit in limits and cause.concerns(cell.subject) and cause.applies_to(versions):
                for pattern in cause.fails:
                    if not isinstance(pattern, Undecodable) and pattern.signature == signature and pattern.covers(cell):
                        return self._expectation(name, pattern, cell)
        return None

    def patterns_without_cells(self, cells: Collection[Cell]) -> list[str]:
        """A sentence for each pattern that names a clause, backend or mode with no cell among all `cells`."""
        return [
            f"{name}: fails.{index} names no cell: {flow({'on': backend, 'mode': str(pattern.mode or 'any'), **kind})}"
            for name, cause in self.causes.items()
            for index, pattern in enumerate(cause.fails)
            if not isinstance(pattern, Undecodable)
            for backend in pattern.on
            for kind in _kinds(pattern)
            if not any(
                cell.backend == backend
                and pattern.covers(cell)
                and (isinstance(pattern, Blocker) or cell.clause in kind["clauses"])
                for cell in cells
            )
        ]

    def _expectation(self, name: str, pattern: Violation | Blocker, cell: CellLike) -> Expectation:
        cause = self.causes[name]
        at_most = pattern.at_most if isinstance(pattern, Violation) else None
        return Expectation(name, pattern.signature, cause.reason, cause.link, at_most, pattern.requires(cell))


def patterns_for(cause: Cause, architecture: str) -> Iterator[Violation | Blocker]:
    """The patterns of `cause` that are about the row of `architecture`; of a variation, those about its fixture too."""
    for pattern in cause.fails:
        if not isinstance(pattern, Undecodable) and is_about_row(pattern, architecture):
            yield pattern


def is_about_row(pattern: Violation | Blocker | Undecodable, architecture: str) -> bool:
    """Whether `pattern` is about the row of `architecture`; of a variation, also if it is about its fixture."""
    return not pattern.rows or architecture in pattern.rows or split_row(architecture)[0] in pattern.rows


def _precedence(pattern: Violation | Blocker, cell: CellLike) -> tuple[bool, int, bool, bool]:
    stage = STAGES.index(Stage(pattern.signature.partition(":")[0]))
    return not pattern.requires(cell), stage, not pattern.rows, isinstance(pattern, Violation)


def _kinds(pattern: Violation | Blocker) -> list[dict[str, Any]]:
    if isinstance(pattern, Blocker):
        return [{"blocks": pattern.blocks.value}]
    return [{"clauses": [clause]} for clause in pattern.clauses]


# Reading


def _without_none(value: Any) -> Any:
    return {} if value is None else value


@validated(frozen=True, slots=True, config=_CONFIG)
class _Rows:
    """The content of `models_matrix.yaml`."""

    schema_version: Literal[2]
    architectures: Annotated[dict[str, Row], BeforeValidator(_without_none)]
    retired: tuple[Retired, ...] = ()


_ROWS = TypeAdapter(_Rows)
_CAUSES = TypeAdapter(dict[Annotated[str, Field(pattern=f"^{_ID}$")], Cause])
_VARIATION = TypeAdapter(Variation)
_RECORDS = (_Rows, Row, Retired, Cause, Violation, Blocker, Undecodable, Variation, VariedRow)


def load_matrix(path: Path = MATRIX_PATH, *, drafted: bool = False) -> Matrix:
    """Read and validate the matrix at `path` and the causes in `known_failures/` beside it.

    Args:
        path: The matrix.
        drafted: Whether a reason may be TODO.

    Raises:
        MatrixError: A file is missing, is not YAML, or does not fit the schema; a row names a cause that does not
            exist; a cause is named by no row. The message says file, line and key.
    """
    file = read_yaml(path)
    if not isinstance(file.data, dict):
        raise file.error([], "expected a mapping with the keys schema_version and architectures")
    rows = _validated(_ROWS, file)
    variations, variation_files = _read_variations(path, rows.architectures)
    matrix = Matrix(rows.architectures, variations=variations)
    all_rows = matrix.rows  # once: with its 500 rows made anew for each cause, reading took 0.17 s, not 0.05
    causes: dict[str, Cause] = {}
    owners: dict[str, str] = {}
    for other in sorted((path.parent / CAUSES).glob("*.yaml")):
        causes_file = read_yaml(other)
        if not isinstance(causes_file.data, dict):
            raise causes_file.error([], "expected a mapping of causes by id")
        for name, cause in _validated(_CAUSES, causes_file).items():
            if name in causes:
                raise causes_file.error([name], f"{CAUSES}/{owners[name]}.yaml has a cause of this id")
            if cause.reason == TODO and not drafted:
                message = "the reason is TODO: explain the failure, and link the issue where there is one"
                raise causes_file.error([name, "reason"], message)
            problem = _misplaced(name, cause, all_rows)
            if problem:
                raise causes_file.error([name], problem)
            causes[name], owners[name] = cause, other.stem
    for name, row in rows.architectures.items():
        for index, cause_id in enumerate(row.known):
            if cause_id not in causes:
                raise file.error(["architectures", name, "known", index], unknown("cause", cause_id, causes))
            if cause_id in row.known[:index]:
                raise file.error(["architectures", name, "known", index], f"{cause_id} is named twice")
    for name, variation in variations.items():
        for architecture, varied in variation.rows.items():
            own = rows.architectures[architecture].known
            for key, ids, choices in (
                ("known", varied.known, set(causes) - set(own)),
                ("without", varied.without, own),
            ):
                for index, cause_id in enumerate(ids):
                    if cause_id not in choices:
                        message = unknown("cause", cause_id, choices)
                        raise variation_files[name].error(["rows", architecture, key, index], message)
    return dataclasses.replace(matrix, causes=causes, retired=rows.retired, owners=owners)


def _read_variations(path: Path, architectures: Mapping[str, Row]) -> tuple[dict[str, Variation], dict[str, YamlFile]]:
    """The variations beside the matrix at `path`, and the files that they are read from."""
    variations, files = {}, {}
    for other in sorted((path.parent / FOLDER).glob("*.yaml")):
        file = files[other.stem] = read_yaml(other)
        if not re.fullmatch(_ID, other.stem):
            raise file.error([], f"{other.stem!r} cannot be the name of a variation: use a-z, 0-9, - and .")
        if not isinstance(file.data, dict):
            raise file.error([], "expected a mapping with the keys what and rows")
        variation: Variation = _validated(_VARIATION, file)
        for key, names in (("rows", variation.rows), ("core", variation.core)):
            known = architectures if key == "rows" else variation.rows
            for index, name in enumerate(names):
                if name not in known:
                    place = name if key == "rows" else index
                    raise file.error([key, place], unknown("architecture", name, known))
        variations[other.stem] = variation
    return variations, files


def matrix_digest(path: Path = MATRIX_PATH) -> str:
    """A digest of the matrix: verdicts under different matrices do not belong together."""
    digest = hashlib.sha256(path.read_bytes())
    for other in (*sorted((path.parent / CAUSES).glob("*.yaml")), *sorted((path.parent / FOLDER).glob("*.yaml"))):
        digest.update(other.name.encode() + other.read_bytes())
    return digest.hexdigest()[:12]


def _misplaced(name: str, cause: Cause, rows: Mapping[str, Row]) -> str | None:
    """Contradictions between a cause and the rows that name it."""
    naming = [row for row, known in rows.items() if name in known.known]
    if not naming:
        return "no row names this cause: remove it, or add its id to a row's `known`"
    for pattern in cause.fails:
        for row in pattern.rows:
            if row not in naming:
                return f"a pattern is for the row {row}, which does not name this cause"
        if pattern.rows and dataclasses.replace(pattern, rows=()) in cause.fails:
            return f"the pattern for {', '.join(pattern.rows)} is also there for all rows: remove it"
    return None


def _validated(adapter: TypeAdapter[Any], file: YamlFile) -> Any:
    try:
        return adapter.validate_python(file.data)
    except ValidationError as error:
        # A misspelt key is missing under its right name too: the misspelling comes first.
        first = min(error.errors(), key=lambda found: found["type"] == "missing")
        raise file.error(list(_keys(first["loc"])), _explain(first)) from error


def _keys(location: Iterable[str | int]) -> Iterator[str | int]:
    """The keys of a file on the way to an error, without the name of the kind that pydantic puts behind a pattern's."""
    parts = list(location)
    for index, part in enumerate(parts):
        tagged = index > 0 and parts[index - 1] != "loc" and isinstance(parts[index - 1], int)
        if not (tagged and part in ("clauses", "blocks", "undecodable") and index + 1 < len(parts)):
            yield part


def _explain(error: Any) -> str:
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        names = {name for record in _RECORDS for name in record.__dataclass_fields__}
        return unknown("key", str(error["loc"][-1]), names)
    if error["type"] == "missing":
        return "this key is missing"
    return f"{error['msg']} (found {error['input']!r})"


# Writing


def write_matrix(matrix: Matrix, path: Path = MATRIX_PATH) -> None:
    """Write rows, variations and causes, each file with the comment that it begins with; a file without causes goes.

    Raises:
        MatrixError: A file has a comment further down, which would be lost.
    """
    texts = {path: rows_text(matrix, _header(path))}
    folder = path.parent / CAUSES
    for owner in sorted({*matrix.owners.values(), *(file.stem for file in folder.glob("*.yaml"))}):
        file = folder / f"{owner}.yaml"
        texts[file] = causes_text(matrix, owner, _header(file))
    varied = {path.parent / FOLDER / f"{name}.yaml": variation for name, variation in matrix.variations.items()}
    texts |= {file: variation_text(variation, _header(file)) for file, variation in varied.items()}
    for file in texts:
        _require_no_comments(file)
    for file, text in texts.items():
        if file == path or file in varied or file.stem in matrix.owners.values():
            atomic_write(file, text.encode())
        else:
            file.unlink(missing_ok=True)


def rows_text(matrix: Matrix, header: str = "") -> str:
    """`models_matrix.yaml`, one line an architecture."""
    lines = [header + "schema_version: 2"]
    if matrix.retired:
        lines.append("retired:")
    for retired in matrix.retired:
        values = {"names": list(retired.names), "since": retired.since, "reason": retired.reason, "link": retired.link}
        lines.append("  - " + flow({key: value for key, value in values.items() if value is not None}))
    lines.append("architectures:" if matrix.architectures else "architectures: {}")
    lines += [row_text(name, row) for name, row in matrix.architectures.items()]
    return "\n".join(lines) + "\n"


def row_text(name: str, row: Row) -> str:
    """One row, which is one line."""
    return f"  {name}: {flow(_row_values(row))}"


def causes_text(matrix: Matrix, owner: str, header: str = "") -> str:
    """`known_failures/<owner>.yaml`, in the order of the ids."""
    names = sorted(name for name, other in matrix.owners.items() if other == owner)
    return header + "\n".join(cause_text(name, matrix.causes[name]) for name in names)


def cause_text(name: str, cause: Cause) -> str:
    """One entry."""
    head: dict[str, Any] = {"exporter": _short(cause.exporter)}
    if cause.when:
        head["when"] = dict(cause.when)
    if cause.limit:
        head["limit"] = cause.limit.value
    lines = [f"{name}:", *(f"  {flow({key: value})[1:-1]}" for key, value in head.items())]
    lines.append(f"  reason: {cause.reason if cause.reason == TODO else folded(cause.reason, 4)}")
    if cause.link:
        lines.append("  " + block("link", cause.link))
    lines.append("  fails:")
    lines += [f"    - {flow(_pattern_values(pattern))}" for pattern in cause.fails]
    return "\n".join(lines) + "\n"


def _row_values(row: Row) -> dict[str, Any]:
    values: dict[str, Any] = {"tier": row.tier.value, "caches": list(row.caches)}
    if row.known:
        values["known"] = sorted(row.known)
    return {**values, "exercises": row.exercises}


def _pattern_values(pattern: Violation | Blocker | Undecodable) -> dict[str, Any]:
    values: dict[str, Any] = {"rows": _short(pattern.rows)} if pattern.rows else {}
    if isinstance(pattern, Undecodable):
        free = {"without_cache": True} if pattern.without_cache else {}
        return {**values, "undecodable": pattern.undecodable, **free}
    values["on"] = _short(pattern.on)
    if pattern.mode is not None:
        values["mode"] = pattern.mode.value
    if isinstance(pattern, Blocker):
        return {**values, "blocks": pattern.blocks.value, "signature": pattern.signature}
    values |= {"clauses": list(pattern.clauses), "signature": pattern.signature}
    return values if pattern.at_most is None else {**values, "at_most": pattern.at_most}


def _short(names: tuple[str, ...]) -> str | list[str]:
    return names[0] if len(names) == 1 else list(names)


def _header(path: Path) -> str:
    return read_yaml(path).header if path.exists() else ""


def _require_no_comments(path: Path) -> None:
    """Comments below the head of a file would be lost."""
    if not path.exists():
        return
    file = read_yaml(path)
    body = path.read_text(encoding="utf-8")[len(file.header) :]
    offset = file.header.count("\n")
    for number, line in enumerate(body.splitlines(), offset + 1):
        if line.lstrip().startswith("#"):
            raise MatrixError(
                "comment-lost", f"{path}:{number}: this comment would be lost: move it to the top, or into a reason"
            )
