"""The content of pages that is theirs alone: tables of cells, messages, and what a grid is filtered by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from conformance.core.cells import EAGER, EXPORTED
from conformance.core.contract import CLAUSES
from conformance.core.option_names import by_option
from conformance.records.run import CellRecord

from .analysis.report import Architecture, Headline, Report, VariantState
from .analysis.status import clause_order
from .analysis.variants import Variant, variant_of
from .analysis.verdicts import QUIET
from .loading import when
from .names import slug

_FIELD = re.compile(r"  (observed|expected|script|versions|replay|also) +(.*)")
_TEXTS = {clause.id: clause.text for clause in CLAUSES}


@dataclass(frozen=True, slots=True)
class RunHeader:
    """The facts about the run that stand on every page."""

    report: Report
    age_days: int
    stale_after: int

    @property
    def architectures(self) -> int:
        """The number of its architectures; variations of their fixtures do not count."""
        return sum(not each.is_variation for each in self.report.architectures)

    @property
    def not_run(self) -> int:
        """The number of cells that were not run, for any reason."""
        return sum(len(group.cells) for group in self.report.unrun)

    @property
    def stale(self) -> bool:
        """Whether the run is too old to rely on."""
        return self.age_days >= self.stale_after

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """The options that were given to the run."""
        given = by_option(self.report.run.run.options).items()
        return tuple((name, str(value)) for name, value in given if value is not None)


@dataclass(frozen=True, slots=True)
class GridRow:
    """One architecture in the grid of a variant."""

    architecture: Architecture
    state: VariantState

    @property
    def tier(self) -> str:
        """How often it is tested; empty if the matrix does not list it."""
        return self.architecture.row.tier.value if self.architecture.row else ""

    @property
    def caches(self) -> tuple[str, ...]:
        """The kinds of its cache layers."""
        return self.architecture.row.caches if self.architecture.row else ()

    @property
    def troubles(self) -> tuple[str, ...]:
        """The stages at which a cell does not pass."""
        return tuple(
            each.stage.value for each in self.state.stages if each.counts and each.outcome.verdict not in QUIET
        )


@dataclass(frozen=True, slots=True)
class Tab:
    """A variant to choose: the address of its grid, and its headline."""

    page: str
    headline: Headline


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


def run_header(report: Report, now: datetime, stale_after: int) -> RunHeader:
    """The header of the newest run, at the time `now`."""
    info = report.run.run
    return RunHeader(report, max(0, (now - when(info.finished or info.started)).days), stale_after)


def architecture_page(name: str) -> str:
    """The address of an architecture's page."""
    return f"architectures/{slug(name)}.html"


def grid(report: Report, variant: Variant) -> tuple[GridRow, ...]:
    """The grid of a variant, problems first."""
    rows = (GridRow(each, state) for each in report.architectures for state in each.states if state.variant == variant)
    return tuple(sorted(rows, key=lambda row: (row.state.status.rank, row.architecture.name)))


def grid_page(variant: Variant) -> str:
    """The address of a grid other than the first."""
    return f"grid/{slug(variant.subject, variant.backend, variant.mode)}.html"


def table_columns(cells: Sequence[CellRecord]) -> tuple[Variant, ...]:
    """The columns of an architecture's table: for each subject, the exported program before the backends."""
    return tuple(
        sorted(
            {variant_of(cell) for cell in cells},
            key=lambda each: (each.subject, each.mode, each.backend != EAGER, each.backend != EXPORTED, each),
        )
    )


def clause_rows(cells: Sequence[CellRecord]) -> tuple[ClauseRow, ...]:
    """Every cell of an architecture, by clause in the contract's order."""
    by_column = {(cell.clause, variant_of(cell)): cell for cell in cells}
    heads = table_columns(cells)
    return tuple(
        ClauseRow(clause, _TEXTS.get(clause, ""), tuple(by_column.get((clause, column)) for column in heads))
        for clause in sorted({cell.clause for cell in cells}, key=clause_order)
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
