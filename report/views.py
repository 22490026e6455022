"""What each page shows, as records that a template can only print."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from conformance.core.cells import EAGER, EXPORTED
from conformance.core.contract import CLAUSES
from conformance.core.verdicts import Verdict
from conformance.matrix.schema import Matrix, Row
from conformance.records.run import CellRecord, RunRecord
from report.causes import Cause, causes
from report.grouping import unrun
from report.loading import when
from report.model import (
    Columns,
    StagePlace,
    Standing,
    Variant,
    acceptable,
    by_architecture,
    count,
    stage_places,
    standing,
    variant_of,
    variant_standing,
    variants,
)
from report.names import slug
from report.timeline import History, Since, versions

_FIELD = re.compile(r"  (observed|expected|script|versions|replay|also) +(.*)")
_CLAUSES = {clause.id: clause for clause in CLAUSES}


@dataclass(frozen=True, slots=True)
class Strip:
    """What the reader has to know of the run before anything else."""

    run: RunRecord
    counts: tuple[tuple[Verdict, int], ...]
    architectures: int
    unrun: tuple[tuple[str, int], ...]
    age_days: int
    stale_after: int
    acceptable: bool

    @property
    def not_run(self) -> int:
        """Cells that were not run, whatever for."""
        return sum(number for _, number in self.unrun)

    @property
    def stale(self) -> bool:
        """Whether the run is so old that it may say nothing of today."""
        return self.age_days >= self.stale_after

    @property
    def total(self) -> int:
        """All cells of the record."""
        return len(self.run.cells)

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """What the run was asked for, where that is not the default."""
        return tuple((name, str(value)) for name, value in self.run.run.options.items() if value is not None)


@dataclass(frozen=True, slots=True)
class GridRow:
    """One architecture in the grid of a variant."""

    name: str
    page: str
    standing: Standing
    places: tuple[StagePlace, ...]
    tier: str
    caches: tuple[str, ...]
    since: Since | None

    @property
    def stages(self) -> tuple[str, ...]:
        """For the filter: `STAGE:VERDICT` of each place with cells."""
        return tuple(f"{place.stage}:{place.standing.kind}" for place in self.places if place.standing.verdict)


@dataclass(frozen=True, slots=True)
class Tab:
    """A variant to choose, and how its architectures stand."""

    variant: Variant
    page: str
    standings: tuple[tuple[Standing, int], ...]


@dataclass(frozen=True, slots=True)
class ClauseRow:
    """One clause on an architecture's page: its cell in each column, or None."""

    clause: str
    text: str
    cells: tuple[CellRecord | None, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A failure's message, taken apart where it has the usual shape; nothing of it is left out."""

    lines: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]

    @property
    def script(self) -> str | None:
        """The shortest decode script that shows the failure."""
        return dict(self.fields).get("script")


@dataclass(frozen=True, slots=True)
class PastRun:
    """A line of an architecture's history."""

    run: RunRecord
    versions: tuple[tuple[str, str], ...]
    standings: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class VariantState:
    """How a variant of an architecture stands, and since when; `covered` says that it has cells of its own."""

    variant: Variant
    standing: Standing
    since: Since | None
    covered: bool


@dataclass(frozen=True, slots=True)
class Architecture:
    """Everything about one architecture that more than one page needs."""

    name: str
    cells: tuple[CellRecord, ...]
    row: Row | None
    columns: Columns
    states: tuple[VariantState, ...]

    @property
    def slug(self) -> str:
        """Its name in addresses."""
        return slug(self.name)

    @property
    def page(self) -> str:
        """Its page."""
        return f"architectures/{self.slug}.html"

    @property
    def counts(self) -> tuple[tuple[Verdict, int], ...]:
        """Its cells by verdict."""
        return count(self.cells)

    @property
    def standing(self) -> Standing:
        """Its worst verdict anywhere."""
        return standing(self.cells)

    @property
    def own(self) -> tuple[VariantState, ...]:
        """The variants that it has cells of."""
        return tuple(state for state in self.states if state.covered)

    @property
    def causes(self) -> tuple[Cause, ...]:
        """What fails, by cause, of this architecture alone."""
        return causes(self.cells)


def architectures(history: History, matrix: Matrix) -> tuple[Architecture, ...]:
    """The architectures of the newest run, by name, each with its state in all variants of the run."""
    shown = variants(history.head.cells)

    def architecture(name: str, cells: tuple[CellRecord, ...]) -> Architecture:
        found = history.of(-1, name)
        alone = [] if any(variant in found for variant in shown) else list(found)
        states = tuple(
            VariantState(variant, variant_standing(found, variant), history.since(name, variant), variant in found)
            for variant in (*shown, *alone)
        )
        return Architecture(name, cells, matrix.architectures.get(name), found, states)

    return tuple(architecture(*each) for each in sorted(by_architecture(history.head.cells).items()))


def strip(run: RunRecord, now: datetime, stale_after: int) -> Strip:
    """The head of every page."""
    return Strip(
        run,
        count(run.cells),
        len({cell.architecture for cell in run.cells}),
        tuple((said, len(alike)) for said, alike in unrun(run.cells)),
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
            state.standing,
            stage_places(each.columns, variant),
            each.row.tier.value if each.row else "",
            each.row.caches if each.row else (),
            state.since,
        )
        for each in known
        for state in each.states
        if state.variant == variant
    )
    return tuple(sorted(rows, key=lambda row: (row.standing.rank, row.name)))


def grid_page(variant: Variant) -> str:
    """The address of a grid other than the first."""
    return f"grid/{slug(variant.subject, variant.backend, variant.mode)}.html"


def tab(variant: Variant, page: str, rows: Sequence[GridRow]) -> Tab:
    """The choice of a variant whose grid is `rows`: how many architectures have each verdict.

    At which stage makes no difference, unless it is all that was done of what holds.
    """
    plain = (
        row.standing if row.standing.short else Standing(row.standing.verdict)
        for row in sorted(rows, key=lambda row: row.standing.rank)
    )
    return Tab(variant, page, tuple(Counter(plain).items()))


def table_columns(cells: Sequence[CellRecord]) -> tuple[Variant, ...]:
    """The columns of an architecture's table, as a failure is best read: what comes before lowering first."""
    return tuple(
        sorted(
            {variant_of(cell) for cell in cells},
            key=lambda each: (each.subject, each.mode, each.backend != EAGER, each.backend != EXPORTED, each),
        )
    )


def clause_rows(cells: Sequence[CellRecord]) -> tuple[ClauseRow, ...]:
    """Every cell of an architecture, by clause in the contract's order; a clause it does not know comes last."""
    found = {(cell.clause, variant_of(cell)): cell for cell in cells}
    order = {clause: index for index, clause in enumerate(_CLAUSES)}
    clauses = sorted({cell.clause for cell in cells}, key=lambda clause: (order.get(clause, len(order)), clause))
    heads = table_columns(cells)
    return tuple(
        ClauseRow(
            clause,
            _CLAUSES[clause].text if clause in _CLAUSES else "",
            tuple(found.get((clause, column)) for column in heads),
        )
        for clause in clauses
    )


def message(cell: CellRecord) -> Message:
    """The message of a cell. The replay command is shown by itself, so it is left out here if it is the same."""
    lines, fields = [], []
    for line in (cell.message or "").strip().splitlines():
        field = _FIELD.fullmatch(line)
        if not field:
            lines.append(line)
        elif field.groups() != ("replay", cell.replay):
            fields.append((field[1], field[2]))
    return Message(tuple(lines), tuple(fields))


def past(history: History, architecture: Architecture, limit: int) -> tuple[PastRun, ...]:
    """The newest runs, newest first, that have the architecture at all."""
    found = (
        PastRun(
            history.runs[index],
            versions(history.runs[index]),
            tuple(history.standing(index, architecture.name, state.variant) for state in architecture.own),
        )
        for index in range(len(history.runs) - 1, -1, -1)
        if history.of(index, architecture.name)
    )
    return tuple(islice(found, limit))
