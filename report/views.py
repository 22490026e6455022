"""The content of single pages: tables of cells, messages, and other runs beside the newest."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from conformance.core.cells import EAGER, EXPORTED
from conformance.core.contract import CLAUSES
from conformance.core.option_names import by_option
from conformance.records.run import CellRecord

from .addresses import NOT_RUN, architecture_page
from .analysis.clauses import chapters, needs_attention
from .analysis.compare import Comparison, DifferenceGroup
from .analysis.report import Report, VersionsColumn
from .analysis.status import Status, clause_order
from .analysis.variants import Variant, variant_of
from .analysis.verdicts import Outcome
from .loading import when

_FIELD = re.compile(r"  (observed|expected|script|versions|replay|also) +(.*)")
_CLAUSES = {clause.id: clause for clause in CLAUSES}


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
    def unexpected(self) -> tuple[str, ...]:
        """The architectures with a result that fails the run."""
        return tuple(
            each.name
            for each in sorted(self.report.architectures, key=lambda each: each.worst.rank)
            if any(state.status.unexpected for state in each.covered)
        )

    @property
    def stale(self) -> bool:
        """Whether the run is too old to rely on."""
        return self.age_days >= self.stale_after

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """The options that were given to the run, and what else it records of its conditions."""
        given = by_option(self.report.run.run.options).items()
        named = ((name if name.startswith("--") else f"hash of the {name}", value) for name, value in given)
        return tuple((name, str(value)) for name, value in named if value is not None)


@dataclass(frozen=True, slots=True)
class ClauseRow:
    """One clause on an architecture's page: its cell in each column, or None."""

    clause: str
    text: str
    cells: tuple[CellRecord | None, ...]


@dataclass(frozen=True, slots=True)
class ChapterTable:
    """The clauses of one chapter on an architecture's page; columns without any of them are left out."""

    title: str
    columns: tuple[Variant, ...]
    rows: tuple[ClauseRow, ...]
    cells: tuple[CellRecord, ...]

    @property
    def open(self) -> bool:
        """Whether something in it needs attention."""
        return needs_attention(self.cells)


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """Architectures that differ in the same way between two runs."""

    architectures: tuple[str, ...]
    variant: Variant
    before: Outcome
    after: Outcome
    signature: str | None
    clauses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VersionsRow:
    """One architecture with several sets of versions, the newest first; `changes` are where a status differs from the
    one before it.
    """

    architecture: str
    statuses: tuple[Status, ...]
    changes: tuple[bool, ...]

    @property
    def rank(self) -> tuple[bool, int, str]:
        """Changed ones first, then problems."""
        return not any(self.changes), self.statuses[0].rank, self.architecture


@dataclass(frozen=True, slots=True)
class Message:
    """A failure's message: its lines, and those of the usual form `  NAME  TEXT` as fields."""

    lines: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]


def targets(report: Report) -> dict[str, str]:
    """By the id of each cell that does not pass, the address of what explains it on its architecture's page."""
    found = {}
    for cause in report.causes:
        for cell in cause.cells:
            found[cell.id] = f"{architecture_page(cell.architecture)}#{cause.anchor}"
    for group in report.unrun:
        for cell in group.cells:
            found[cell.id] = f"{architecture_page(cell.architecture)}#{NOT_RUN}"
    return found


def run_header(report: Report, now: datetime, stale_after: int) -> RunHeader:
    """The header of the newest run, at the time `now`."""
    info = report.run.run
    return RunHeader(report, max(0, (now - when(info.finished or info.started)).days), stale_after)


# One architecture


def table_columns(cells: Iterable[CellRecord]) -> tuple[Variant, ...]:
    """The columns of an architecture's table: for each subject, the exported program before the backends."""
    return tuple(
        sorted(
            {variant_of(cell) for cell in cells},
            key=lambda each: (each.subject, each.mode, each.backend != EAGER, each.backend != EXPORTED, each),
        )
    )


def chapter_tables(cells: Sequence[CellRecord]) -> tuple[ChapterTable, ...]:
    """Every cell of an architecture, by chapter and clause in the contract's order."""
    return tuple(
        ChapterTable(title, table_columns(own), clause_rows(own), own) for title, own in chapters(cells).items()
    )


def clause_rows(cells: Sequence[CellRecord]) -> tuple[ClauseRow, ...]:
    """Cells of an architecture by clause, in the contract's order."""
    by_column = {(cell.clause, variant_of(cell)): cell for cell in cells}
    heads = table_columns(cells)
    return tuple(
        ClauseRow(clause, clause_text(clause), tuple(by_column.get((clause, column)) for column in heads))
        for clause in sorted({cell.clause for cell in cells}, key=clause_order)
    )


def clause_text(clause: str) -> str:
    """The contract's text; empty for an id that is not in this contract."""
    return _CLAUSES[clause].text if clause in _CLAUSES else ""


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


# Other runs


def change_rows(groups: Iterable[DifferenceGroup]) -> tuple[ChangeRow, ...]:
    """Groups of differences, those of several architectures that are alike in one row."""
    alike: dict[tuple[Variant, Outcome, Outcome, str | None, tuple[str, ...]], list[str]] = {}
    for group in groups:
        key = (group.variant, group.before, group.after, group.signature, group.clauses)
        alike.setdefault(key, []).append(group.architecture)
    return tuple(ChangeRow(tuple(names), *key) for key, names in alike.items())


def versions_changed(comparison: Comparison) -> frozenset[str]:
    """The packages whose versions differ between the two runs."""
    before, after = comparison.base.environment.packages, comparison.head.environment.packages
    return frozenset(name for name in {*before, *after} if before.get(name) != after.get(name))


def versions_rows(columns: Sequence[VersionsColumn], variant: Variant) -> tuple[VersionsRow, ...]:
    """The architectures that any of `columns` has in a variant: changed ones first, then problems first."""
    names = dict.fromkeys(name for column in columns for name in column.statuses.get(variant, {}))
    rows = []
    for name in names:
        statuses = tuple(column.status(variant, name) for column in columns)
        older = (*statuses[1:], statuses[-1])
        changes = tuple(now.label != then.label for now, then in zip(statuses, older, strict=True))
        rows.append(VersionsRow(name, statuses, changes))
    return tuple(sorted(rows, key=lambda row: row.rank))


def stretches_of(statuses: Iterable[Status]) -> Iterator[tuple[str, int]]:
    """The labels of `statuses`, each with the number of those in a row that have it."""
    for label, alike in itertools.groupby(status.label for status in statuses):
        yield label, sum(1 for _ in alike)


def by_status(
    statuses: Sequence[Status], variants: Sequence[Variant]
) -> tuple[tuple[Status, tuple[Variant, ...]], ...]:
    """The `variants` that have each of `statuses`, which are in the same order; problems first."""
    found: dict[str, tuple[Status, list[Variant]]] = {}
    for status, variant in zip(statuses, variants, strict=True):
        found.setdefault(str(status), (status, []))[1].append(variant)
    ordered = sorted(found.values(), key=lambda each: each[0].rank)
    return tuple((status, tuple(alike)) for status, alike in ordered)
