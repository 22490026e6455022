"""Run records: the file that a run ends with, its schema, and its journal, which is read in its place until then.

`conformance/records/run.schema.json` is generated from these classes (`conformance docs`).
"""

from __future__ import annotations

import dataclasses
import errno
import gzip
import json
import zlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from conformance.core.cells import Cell
from conformance.core.errors import InputError
from conformance.core.files import atomic_write, read_regular_file
from conformance.core.validation import first_problem
from conformance.core.verdicts import Stage, Verdict

SCHEMA_VERSION: Literal[1] = 1
SCHEMA_PATH = Path(__file__).parent / "run.schema.json"
#: Largest record that is read, in bytes. One of all architectures on one backend has 5 MiB.
_MOST_BYTES = 256 << 20

#: Follows a commit if the checkout had uncommitted changes, like in `git describe`.
DIRTY = "-dirty"

#: The end of a compressed record's name; it has a twentieth of the size.
COMPRESSED = ".gz"
#: The end of a journal's name.
_JOURNAL = ".jsonl"

#: The message of a cell that a run did not reach. If a package was missing, the message names it instead.
UNREACHED = "the run ended before this cell was reached"

#: JSON has no NaN and no infinity: null would be written, and a number is read. One metric would cost the whole record.
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


class InvalidRecordError(InputError):
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
        moved: What operators that run on portable kernels read and write in a call with one token, by name; the most
            first. Empty in records made before it was measured.
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
    moved: dict[str, int] = dataclasses.field(default_factory=dict)


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


@dataclass(frozen=True, slots=True, config=_CONFIG)
class FloatWeight:
    """A weight of the model that a quantised program still holds in floating point.

    Args:
        name: In the model, such as ``model.layers.0.mlp.experts.gate_up_proj``.
        dtype: As the program holds it, without ``torch.``.
        size: Bytes of it there.
        why: The reason, if it is known, or empty.
    """

    name: str
    dtype: str
    size: int
    why: str = ""


@dataclass(frozen=True, slots=True, config=_CONFIG)
class QuantisationRecord:
    """The weights of the model in a quantised program. The cell of LOW-11 has it.

    A weight is a parameter of two dimensions or more, and one that is tied to others counts once. Embeddings are looked
    up and not multiplied by: they count apart, also from the output projections that they are tied to. All sizes are
    in bytes of the float model.

    Args:
        products: Weights of matrix products and convolutions that the program reads.
        product_bytes: Their size.
        quantised: Those of them that the program holds as integers of at most 8 bits.
        quantised_bytes: Their size.
        model_bytes: All parameters of the float model, tied ones once.
        kept: Weights that stay in floating point, embeddings among them, the largest first.
    """

    products: int
    product_bytes: int
    quantised: int
    quantised_bytes: int
    model_bytes: int
    kept: tuple[FloatWeight, ...]

    @property
    def share(self) -> float:
        """The quantised ones' share of the bytes of products; 1 if there are none."""
        return self.quantised_bytes / self.product_bytes if self.product_bytes else 1.0


class Measured(TypedDict, total=False):
    """Measurements of a check that are not numbers; each goes into the field of its name in the cell's record."""

    partition: PartitionRecord
    fields: FieldsRecord
    notes: tuple[str, ...]
    quantisation: QuantisationRecord


@dataclass(frozen=True, slots=True, config=_CONFIG)
class CellRecord:
    """One cell's verdict. `subject` and `mode` are null where they do not apply; see `conformance.core.cells.Cell`.

    `bundle` is the folder of its failure bundle, relative to where the run was started; null if it has none. `notes`
    are those of `conformance.models.loading`, on how a checkpoint was loaded; null if there are none.
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
    duration_s: Annotated[float, Field(ge=0)] = 0.0
    replay: str = ""
    bundle: str | None = None
    partition: PartitionRecord | None = None
    fields: FieldsRecord | None = None
    notes: tuple[str, ...] | None = None
    quantisation: QuantisationRecord | None = None


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Environment:
    """The environment of a run. `packages` maps names of packages to versions."""

    python: str
    platform: str
    cpu: str
    packages: dict[str, str]


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Since:
    """Of an incremental run: what was not judged again, and why.

    Args:
        run: The id of the earlier run.
        left_out: The ids of the cells that cannot have changed since.
        missing: The number of other cells that it has no line of, such as those that pytest deselected.
    """

    run: str
    left_out: tuple[str, ...]
    missing: int = 0


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

    @property
    def left_out(self) -> tuple[str, ...]:
        """Of an incremental run, the ids of the cells that cannot have changed since the earlier run."""
        return self.run.since.left_out if self.run.since else ()

    @property
    def nothing_missing(self) -> bool:
        """Whether each planned cell has a verdict, in this run or, if it cannot have changed, in the earlier one."""
        if self.run.complete or not self.run.since or not self.left_out:
            return self.run.complete
        not_run = any(cell.verdict is Verdict.NOT_RUN for cell in self.cells)
        return self.run.finished is not None and not not_run and not self.run.since.missing


@dataclass(frozen=True, slots=True, config=_CONFIG)
class JournalHeader:
    """The first line of a journal. `planned` are the cells of the run: those that have no line were not reached."""

    schema_version: Literal[1]
    run: RunInfo
    environment: Environment
    planned: tuple[Cell, ...] = ()


@dataclass(frozen=True, slots=True, config=_CONFIG)
class JournalFooter:
    """The last line of a journal. Without it, its run is not complete, whatever the other lines say."""

    finished: str | None
    complete: bool


_RUN = TypeAdapter(RunRecord)
_INFO = TypeAdapter(RunInfo)
_ENVIRONMENT = TypeAdapter(Environment)
_CELL = TypeAdapter(CellRecord)
_HEADER = TypeAdapter(JournalHeader)
_LINE: TypeAdapter[CellRecord | JournalFooter] = TypeAdapter(CellRecord | JournalFooter)


def run_schema() -> dict[str, Any]:
    """The JSON Schema of `run.json`."""
    return _RUN.json_schema()


def load_run(path: Path) -> RunRecord:
    """Read a run back, from its record, compressed or not, or from the journal of a run that has not ended.

    Raises:
        OSError: It cannot be read, or is too large.
        InvalidRecordError: It is not a run record, or only its journal exists.
    """
    try:
        content = read_regular_file(path, _MOST_BYTES)
        if path.suffix == COMPRESSED:
            content = _unpacked(content, path)
        # Strict: a damaged value, such as "1.5" for a number, must not be read as what it may have meant.
        return _read_journal(content) if is_journal(path) else _RUN.validate_json(content, strict=True)
    except ValidationError as error:
        raise InvalidRecordError("invalid-record", f"{path} is not a run record: {first_problem(error)}") from error
    except FileNotFoundError as error:
        journal = journal_of(path)
        if is_journal(path) or not journal.exists():
            raise
        raise InvalidRecordError(
            "unfinished-record",
            f"{path} does not exist: the run did not finish; read {journal}, or finish it with --resume",
        ) from error


def _unpacked(content: bytes, path: Path) -> bytes:
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)  # with gzip's header
    try:
        unpacked = unpacking.decompress(content, _MOST_BYTES + 1)
    except zlib.error as error:
        raise InvalidRecordError("invalid-record", f"{path} is not a gzip file: {error}") from error
    if len(unpacked) > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"larger than {_MOST_BYTES >> 20} MiB", str(path))
    return unpacked


def _read_journal(content: bytes) -> RunRecord:
    # What follows the last line end was cut off when the run was killed in the middle of a write.
    first, *others = content.split(b"\n")[:-1] or [b""]
    header = _HEADER.validate_json(first, strict=True)
    footer: JournalFooter | None = None
    cells = {cell.id: record_of(cell, Verdict.NOT_RUN, UNREACHED) for cell in header.planned}
    for line in (_LINE.validate_json(other, strict=True) for other in others):
        footer = line if isinstance(line, JournalFooter) else None
        if isinstance(line, CellRecord):
            cells[line.id] = line
    ended = footer or JournalFooter(None, False)
    info = dataclasses.replace(header.run, finished=ended.finished, complete=ended.complete)
    return RunRecord(header.schema_version, info, header.environment, tuple(cells.values()))


def record_of(cell: Cell, verdict: Verdict, message: str | None = None, replay: str = "") -> CellRecord:
    """A verdict on `cell` without measurements."""
    return CellRecord(
        id=cell.id,
        architecture=cell.architecture,
        subject=cell.subject,
        backend=cell.backend,
        mode=cell.mode.value if cell.mode else None,
        clause=cell.clause,
        verdict=verdict,
        message=message,
        replay=replay,
    )


def cell_to_json(cell: CellRecord) -> dict[str, Any]:
    """A cell as plain JSON types, for a pytest report."""
    plain: dict[str, Any] = _CELL.dump_python(cell, mode="json")
    return plain


def cell_from_json(plain: dict[str, Any]) -> CellRecord:
    """The inverse of `cell_to_json`."""
    return _CELL.validate_python(plain)


def write_run(path: Path, run: RunRecord) -> None:
    """Write a record atomically, one line a cell, compressed if its name says so. It is on the disk when this returns.

    Raises:
        OSError: It cannot be written, as on a full disk. The file is as it was.
    """
    cells = ",\n".join(_CELL.dump_json(cell).decode() for cell in run.cells)
    text = (
        f'{{"schema_version": {run.schema_version},\n"run": {_INFO.dump_json(run.run).decode()},\n'
        f'"environment": {_ENVIRONMENT.dump_json(run.environment).decode()},\n"cells": [\n{cells}\n]}}\n'
    )
    content = text.encode()
    # Without the time, so that the same record has the same bytes.
    atomic_write(path, gzip.compress(content, mtime=0) if path.suffix == COMPRESSED else content, sync=True)


def is_journal(path: Path) -> bool:
    """Whether a file of this name is read as a journal."""
    return path.name.endswith(_JOURNAL)


def journal_of(record: Path) -> Path:
    """The journal of the run that `record` will be the record of: `run.jsonl` beside `run.json`."""
    return record.with_name(record.name.removesuffix(".json") + _JOURNAL)


def schema_text() -> str:
    """The text of `run.schema.json`."""
    return json.dumps(run_schema(), indent=2) + "\n"
