"""Run records: the file that a run writes, its schema, and a writer that keeps it valid at every moment.

`conformance/records/run.schema.json` is generated from these classes (`conformance docs`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypedDict

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from conformance.core.files import atomic_write, read_regular_file
from conformance.core.validation import first_problem
from conformance.core.verdicts import Stage, Verdict

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).parent / "run.schema.json"
#: Largest record that is read, in bytes. One of all architectures on one backend has 5 MiB.
_MOST_BYTES = 256 << 20

#: Follows a commit if the checkout had uncommitted changes, like in `git describe`.
DIRTY = "-dirty"

#: The message of a cell that a run did not reach. If a package was missing, the message names it instead.
UNREACHED = "the run ended before this cell was reached"

_CONFIG = ConfigDict(extra="forbid")


class InvalidRecordError(ValueError):
    """A file is not a run record; the message names the file and the problem."""


@dataclass(frozen=True, slots=True, config=_CONFIG)
class ExpectedFailure:
    """Why the matrix expects a cell to fail."""

    reason: str
    link: str | None = None


@dataclass(frozen=True, slots=True, config=_CONFIG)
class PartitionRecord:
    """The result of lowering one program. The cell of LOW-1 has it, if lowering gave a program.

    Operators are counted by name, such as ``aten.linear.default``, on the lowered graph. All sizes are in bytes, times
    in seconds.

    Args:
        delegates: Delegated subgraphs, by ExecuTorch's id of the backend that took them, such as ``XnnpackBackend``.
        delegated: The operators inside them.
        undelegated: The operators that run on portable kernels.
        program_bytes: The whole program, as in a `.pte` file.
        constant_bytes: The constants in it, including those of its delegates that are stored separately.
        planned_bytes: Memory that the runtime sets aside for mutable buffers and activations.
        cache_bytes: The mutable buffers alone.
        lower_s: Seconds to lower.
        emit_s: Seconds to emit.
    """

    delegates: dict[str, int]
    delegated: dict[str, int]
    undelegated: dict[str, int]
    program_bytes: int
    constant_bytes: int
    planned_bytes: int
    cache_bytes: int
    lower_s: float
    emit_s: float


@dataclass(frozen=True, slots=True, config=_CONFIG)
class FieldsRecord:
    """The fields of a decoder's config, by what they do to the logits. The cell of SEN-3 has it.

    Args:
        exercised: The fields whose value differs from a neutral one, each with the least that a neutral value moves
            the logits by, in tolerances.
        neutral: The same of fields that a program could ignore without moving the logits that far.
        left_out: The fields that do not count, by the rule that says so.
    """

    exercised: dict[str, float]
    neutral: dict[str, float]
    left_out: dict[str, tuple[str, ...]]


class Measured(TypedDict, total=False):
    """What a check has measured that is not a number; each goes into the field of its name of the cell's record."""

    partition: PartitionRecord
    fields: FieldsRecord


@dataclass(frozen=True, slots=True, config=_CONFIG)
class CellRecord:
    """One cell's verdict. `subject` and `mode` are null where they do not apply; see `conformance.core.cells.Cell`.

    `bundle` is the folder of its failure bundle, relative to where the run was started; null if it has none.
    """

    id: str
    architecture: str
    subject: str | None
    backend: str
    mode: Literal["decode", "dynamic"] | None
    clause: str
    verdict: Verdict
    stage: Stage | None = None
    signature: str | None = None
    message: str | None = None
    expected: ExpectedFailure | None = None
    metrics: dict[str, float] | None = None
    duration_s: float = 0.0
    replay: str = ""
    bundle: str | None = None
    partition: PartitionRecord | None = None
    fields: FieldsRecord | None = None


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Environment:
    """The environment of a run. `packages` maps names of packages to versions."""

    python: str
    platform: str
    cpu: str
    packages: dict[str, str]


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Since:
    """Of an incremental run: the id of the earlier run, and the ids of the cells that cannot have changed since."""

    run: str
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, config=_CONFIG)
class RunInfo:
    """The run itself. Times are ISO 8601 in UTC; `seed` is null if Hypothesis was derandomised.

    `complete` says that every planned cell has a verdict other than not-run. `commit` is that of the suite's checkout,
    followed by `-dirty` if it had uncommitted changes; null if it is unknown. `fingerprints` are hashes and versions of
    everything that verdicts depend on, by name, such as ``modeling code of llama``.
    """

    id: str
    started: str
    finished: str | None
    complete: bool
    options: dict[str, str | int | None]
    seed: int | None
    commit: str | None = None
    fingerprints: dict[str, str] | None = None
    since: Since | None = None


@dataclass(frozen=True, slots=True, config=_CONFIG)
class RunRecord:
    """A whole run, as in `run.json`."""

    schema_version: Literal[1]
    run: RunInfo
    environment: Environment
    cells: tuple[CellRecord, ...]


_RUN = TypeAdapter(RunRecord)
_INFO = TypeAdapter(RunInfo)
_ENVIRONMENT = TypeAdapter(Environment)
_CELL = TypeAdapter(CellRecord)


def run_schema() -> dict[str, Any]:
    """The JSON Schema of `run.json`."""
    return _RUN.json_schema()


def load_run(path: Path) -> RunRecord:
    """Read a run back.

    Raises:
        OSError: It cannot be read, or is too large.
        InvalidRecordError: It is not a run record.
    """
    try:
        # Strict: a damaged value, such as "1.5" for a number, must not be read as what it may have meant.
        return _RUN.validate_json(read_regular_file(path, _MOST_BYTES), strict=True)
    except ValidationError as error:
        raise InvalidRecordError(f"{path} is not a run record: {first_problem(error)}") from error


def cell_to_json(cell: CellRecord) -> dict[str, Any]:
    """A cell as plain JSON types, for a pytest report."""
    plain: dict[str, Any] = _CELL.dump_python(cell, mode="json")
    return plain


def cell_from_json(plain: dict[str, Any]) -> CellRecord:
    """The inverse of `cell_to_json`."""
    return _CELL.validate_python(plain)


class RunWriter:
    """Writes `run.json` after each verdict, atomically.

    Each cell is encoded once, so that writing thousands of them again takes milliseconds.
    """

    def __init__(self, path: Path, info: RunInfo, environment: Environment, cells: Iterable[CellRecord] = ()) -> None:
        self.path = path
        self._environment = _ENVIRONMENT.dump_json(environment).decode()
        self._cells: dict[str, str] = {}
        self._info = info
        self.add(*cells)

    def add(self, *cells: CellRecord) -> None:
        """Add verdicts, or replace them, and write.

        Raises:
            OSError: They cannot be written, as on a full disk. The file is as it was; the next call writes them too.
        """
        for cell in cells:
            self._cells[cell.id] = _CELL.dump_json(cell).decode()
        self._write()

    def finish(self, info: RunInfo, order: Iterable[str]) -> None:
        """Write for the last time, with the cells in the order of the plan."""
        self._info = info
        known, self._cells = self._cells, {}
        for cell_id in order:
            if cell_id in known:
                self._cells[cell_id] = known.pop(cell_id)
        self._cells.update(known)
        self._write()

    def _write(self) -> None:
        cells = ",\n".join(self._cells.values())
        text = (
            f'{{"schema_version": {SCHEMA_VERSION},\n"run": {_INFO.dump_json(self._info).decode()},\n'
            f'"environment": {self._environment},\n"cells": [\n{cells}\n]}}\n'
        )
        atomic_write(self.path, text.encode())


def schema_text() -> str:
    """The text of `run.schema.json`."""
    return json.dumps(run_schema(), indent=2) + "\n"
