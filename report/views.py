"""The content of each page, as records for the templates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from conformance.core.cells import EAGER, EXPORTED, split_row
from conformance.core.contract import CLAUSES
from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.matrix.schema import Expectation, Matrix, Row
from conformance.records.run import CellRecord, RunRecord

from .causes import Cause, causes
from .grouping import unrun
from .loading import when
from .model import (
    Columns,
    StageStatus,
    Status,
    Variant,
    acceptable,
    by_architecture,
    count,
    stage_statuses,
    status_of,
    variant_of,
    variant_status,
    variants,
)
from .names import slug
from .timeline import History, Since, versions

_FIELD = re.compile(r"  (observed|expected|script|versions|replay|also) +(.*)")
_CLAUSES = {clause.id: clause for clause in CLAUSES}


@dataclass(frozen=True, slots=True)
class RunHeader:
    """The facts about the run at the top of the site."""

    run: RunRecord
    counts: tuple[tuple[Verdict, int], ...]
    architectures: int
    unrun: tuple[tuple[str, int], ...]
    age_days: int
    stale_after: int
    acceptable: bool

    @property
    def not_run(self) -> int:
        """The number of cells that were not run, for any reason."""
        return sum(number for _, number in self.unrun)

    @property
    def stale(self) -> bool:
        """Whether the run is too old to rely on."""
        return self.age_days >= self.stale_after

    @property
    def unexpected(self) -> int:
        """The number of cells with a verdict that fails a run."""
        return sum(number for verdict, number in self.counts if verdict not in ACCEPTABLE)

    @property
    def total(self) -> int:
        """The number of all cells."""
        return len(self.run.cells)

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """The options that were given to the run."""
        return tuple((name, str(value)) for name, value in self.run.run.options.items() if value is not None)


@dataclass(frozen=True, slots=True)
class GridRow:
    """One architecture in the grid of a variant."""

    name: str
    page: str
    status: Status
    stages: tuple[StageStatus, ...]
    tier: str
    caches: tuple[str, ...]
    since: Since | None

    @property
    def filter_keys(self) -> tuple[str, ...]:
        """`STAGE:VERDICT` of each stage with cells."""
        return tuple(f"{each.stage}:{each.status.kind}" for each in self.stages if each.status.verdict)


@dataclass(frozen=True, slots=True)
class Tab:
    """A variant to choose, and how many architectures have each status."""

    variant: Variant
    page: str
    statuses: tuple[tuple[Status, int], ...]


@dataclass(frozen=True, slots=True)
class ClauseRow:
    """One clause on an architecture's page: its cell in each column, or None."""

    clause: str
    text: str
    cells: tuple[CellRecord | None, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A failure's message: its lines, and those of the usual form `  NAME  TEXT` as fields."""

    lines: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]

    @property
    def script(self) -> str | None:
        """The shortest decode script that fails."""
        return dict(self.fields).get("script")


@dataclass(frozen=True, slots=True)
class PastRun:
    """A line of an architecture's history."""

    run: RunRecord
    versions: tuple[tuple[str, str], ...]
    statuses: tuple[Status, ...]


@dataclass(frozen=True, slots=True)
class VariantState:
    """The status of a variant of an architecture, and since when; `covered` says that it has cells of its own."""

    variant: Variant
    status: Status
    since: Since | None
    covered: bool


@dataclass(frozen=True, slots=True)
class Architecture:
    """What several pages show of one architecture."""

    name: str
    cells: tuple[CellRecord, ...]
    row: Row | None
    undecodable: Expectation | None
    columns: Columns
    states: tuple[VariantState, ...]

    @property
    def slug(self) -> str:
        """Its name in addresses."""
        return slug(self.name)

    @property
    def page(self) -> str:
        """The address of its page."""
        return f"architectures/{self.slug}.html"

    @property
    def counts(self) -> tuple[tuple[Verdict, int], ...]:
        """The number of its cells by verdict."""
        return count(self.cells)

    @property
    def status(self) -> Status:
        """The worst status of all its cells."""
        return status_of(self.cells)

    @property
    def covered(self) -> tuple[VariantState, ...]:
        """The variants that it has cells of."""
        return tuple(state for state in self.states if state.covered)

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Its failures by cause."""
        return causes(self.cells)


def architectures(history: History, matrix: Matrix) -> tuple[Architecture, ...]:
    """The architectures of the newest run, by name, each with its state in all variants of the run."""
    shown = variants(history.head.cells)

    def architecture(name: str, cells: tuple[CellRecord, ...]) -> Architecture:
        columns = history.of(-1, name)
        others = [] if any(variant in columns for variant in shown) else list(columns)
        states = tuple(
            VariantState(variant, variant_status(columns, variant), history.since(name, variant), variant in columns)
            for variant in (*shown, *others)
        )
        undecodable = matrix.undecodable(name, history.head.environment.packages)
        return Architecture(name, cells, matrix.row(name), undecodable, columns, states)

    return tuple(architecture(*each) for each in sorted(by_architecture(history.head.cells).items()))


def run_header(run: RunRecord, now: datetime, stale_after: int) -> RunHeader:
    """The header of `run`, at the time `now`."""
    return RunHeader(
        run,
        count(run.cells),
        len({split_row(cell.architecture)[0] for cell in run.cells}),
        tuple((reason, len(alike)) for reason, alike in unrun(run.cells)),
        max(0, (now - when(run.run.finished or run.run.started)).days),
        stale_after,
        acceptable(run.cells) and run.run.complete,
    )


def grid(known: Sequence[Architecture], variant: Variant) -> tuple[GridRow, ...]:
    """The grid of a variant, problems first."""
    rows = (
        GridRow(
            each.name,
            each.page,
            state.status,
            stage_statuses(each.columns, variant),
            each.row.tier.value if each.row else "",
            each.row.caches if each.row else (),
            state.since,
        )
        for each in known
        for state in each.states
        if state.variant == variant
    )
    return tuple(sorted(rows, key=lambda row: (row.status.rank, row.name)))


def grid_page(variant: Variant) -> str:
    """The address of a grid other than the first."""
    return f"grid/{slug(variant.subject, variant.backend, variant.mode)}.html"


def tab(variant: Variant, page: str, rows: Sequence[GridRow]) -> Tab:
    """The tab of a variant whose grid is `rows`.

    Statuses at different stages are counted together, except for programs that were compiled only.
    """
    plain = (
        row.status if row.status.compiled_only else Status(row.status.verdict)
        for row in sorted(rows, key=lambda row: row.status.rank)
    )
    return Tab(variant, page, tuple(Counter(plain).items()))


def table_columns(cells: Sequence[CellRecord]) -> tuple[Variant, ...]:
    """The columns of an architecture's table: for each subject, the exported program before the backends."""
    return tuple(
        sorted(
            {variant_of(cell) for cell in cells},
            key=lambda each: (each.subject, each.mode, each.backend != EAGER, each.backend != EXPORTED, each),
        )
    )


def clause_rows(cells: Sequence[CellRecord]) -> tuple[ClauseRow, ...]:
    """Every cell of an architecture, by clause in the contract's order; clauses not in this contract come last."""
    by_column = {(cell.clause, variant_of(cell)): cell for cell in cells}
    order = {clause: index for index, clause in enumerate(_CLAUSES)}
    clauses = sorted({cell.clause for cell in cells}, key=lambda clause: (order.get(clause, len(order)), clause))
    heads = table_columns(cells)
    return tuple(
        ClauseRow(
            clause,
            _CLAUSES[clause].text if clause in _CLAUSES else "",
            tuple(by_column.get((clause, column)) for column in heads),
        )
        for clause in clauses
    )


def message(cell: CellRecord) -> Message:
    """The message of a cell. Its replay command is left out if it is the cell's own, which is shown separately."""
    lines, fields = [], []
    for line in (cell.message or "").strip().splitlines():
        field = _FIELD.fullmatch(line)
        if not field:
            lines.append(line)
        elif field.groups() != ("replay", cell.replay):
            fields.append((field[1], field[2]))
    return Message(tuple(lines), tuple(fields))


def past(history: History, architecture: Architecture, limit: int) -> tuple[PastRun, ...]:
    """The newest `limit` runs that have the architecture, newest first."""
    runs = (
        PastRun(
            history.runs[index],
            versions(history.runs[index]),
            tuple(history.status(index, architecture.name, state.variant) for state in architecture.covered),
        )
        for index in range(len(history.runs) - 1, -1, -1)
        if history.of(index, architecture.name)
    )
    return tuple(islice(runs, limit))
