"""Cells grouped into one line: clauses of the same architecture and variant with the same outcome."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.records.run import CellRecord

from .compare import Change, Comparison, Difference
from .model import Status, Variant, variant_of


@dataclass(frozen=True, slots=True)
class DifferenceGroup:
    """Differences of one line. All have the same `change` and `regression`."""

    architecture: str
    variant: Variant
    change: Change
    regression: bool
    before: Status
    after: Status
    signature: str | None
    cells: tuple[CellRecord, ...]

    @property
    def clauses(self) -> tuple[str, ...]:
        """The clauses of its cells."""
        return tuple(cell.clause for cell in self.cells)

    @property
    def unexpected(self) -> bool:
        """Whether the verdict now is one that fails a run."""
        return self.after.verdict is not None and self.after.verdict not in ACCEPTABLE


@dataclass(frozen=True, slots=True)
class CellGroup:
    """Cells of one run in one line."""

    architecture: str
    variant: Variant
    status: Status
    signature: str | None
    cells: tuple[CellRecord, ...]

    @property
    def clauses(self) -> tuple[str, ...]:
        """The clauses of its cells."""
        return tuple(cell.clause for cell in self.cells)


def groups(comparison: Comparison) -> list[tuple[Change, int, tuple[DifferenceGroup, ...]]]:
    """Each kind of change that occurs, the number of its cells, and their groups."""
    return [(change, len(found), grouped(found)) for change in Change if (found := comparison.of(change))]


def grouped(differences: Iterable[Difference]) -> tuple[DifferenceGroup, ...]:
    """The groups of `differences`, in their order."""
    alike: dict[tuple[str, Variant, Change, bool, Status, Status, str | None], list[CellRecord]] = {}
    for difference in differences:
        before, after = (
            Status(cell.verdict, cell.stage) if cell else Status(None) for cell in (difference.base, difference.head)
        )
        cell, change = difference.cell, difference.change
        key = (cell.architecture, variant_of(cell), change, difference.regression, before, after, cell.signature)
        alike.setdefault(key, []).append(cell)
    return tuple(DifferenceGroup(*key, cells=tuple(cells)) for key, cells in alike.items())


def unrun(cells: Iterable[CellRecord]) -> tuple[tuple[str, tuple[CellRecord, ...]], ...]:
    """The cells that were not run, by their messages; the largest group first: one action solves all of a group."""
    alike: dict[str, list[CellRecord]] = {}
    for cell in cells:
        if cell.verdict is Verdict.NOT_RUN:
            alike.setdefault((cell.message or "").strip() or "no reason given", []).append(cell)
    largest_first = sorted(alike.items(), key=lambda item: -len(item[1]))
    return tuple((reason, tuple(group)) for reason, group in largest_first)


def grouped_cells(cells: Iterable[CellRecord]) -> tuple[CellGroup, ...]:
    """The groups of `cells`, the worst first."""
    alike: dict[tuple[str, Variant, Status, str | None], list[CellRecord]] = {}
    for cell in cells:
        key = (cell.architecture, variant_of(cell), Status(cell.verdict, cell.stage), cell.signature)
        alike.setdefault(key, []).append(cell)
    made = (CellGroup(*key, cells=tuple(group)) for key, group in alike.items())
    return tuple(sorted(made, key=lambda group: (group.status.rank, -len(group.cells))))
