"""Cells that a reader sees as one line: the same architecture and variant, and the same end, in several clauses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.records.run import CellRecord
from report.compare import Change, Comparison, Difference
from report.model import Standing, Variant, variant_of


@dataclass(frozen=True, slots=True)
class DifferenceGroup:
    """Differences that a reader sees as one. `change` and `regression` are those of each of them."""

    architecture: str
    variant: Variant
    change: Change
    regression: bool
    before: Standing
    after: Standing
    signature: str | None
    cells: tuple[CellRecord, ...]

    @property
    def clauses(self) -> tuple[str, ...]:
        """The clauses that differ so."""
        return tuple(cell.clause for cell in self.cells)

    @property
    def unlisted(self) -> bool:
        """Whether they fail now and the matrix does not list them."""
        return self.after.verdict is not None and self.after.verdict not in ACCEPTABLE


@dataclass(frozen=True, slots=True)
class CellGroup:
    """Cells of one run that a reader sees as one."""

    architecture: str
    variant: Variant
    standing: Standing
    signature: str | None
    cells: tuple[CellRecord, ...]

    @property
    def clauses(self) -> tuple[str, ...]:
        """The clauses that ended so."""
        return tuple(cell.clause for cell in self.cells)


def groups(comparison: Comparison) -> list[tuple[Change, int, tuple[DifferenceGroup, ...]]]:
    """Each kind of change that there is: how many cells, and their groups."""
    return [(change, len(found), grouped(found)) for change in Change if (found := comparison.of(change))]


def grouped(differences: Iterable[Difference]) -> tuple[DifferenceGroup, ...]:
    """`differences` by what a reader sees as one, in their order."""
    alike: dict[tuple[str, Variant, Change, bool, Standing, Standing, str | None], list[CellRecord]] = {}
    for each in differences:
        before, after = (
            Standing(cell.verdict, cell.stage) if cell else Standing(None) for cell in (each.base, each.head)
        )
        cell = each.cell
        key = (cell.architecture, variant_of(cell), each.change, each.regression, before, after, cell.signature)
        alike.setdefault(key, []).append(cell)
    return tuple(DifferenceGroup(*key, cells=tuple(cells)) for key, cells in alike.items())


def unrun(cells: Iterable[CellRecord]) -> tuple[tuple[str, tuple[CellRecord, ...]], ...]:
    """The cells that were not run, by what their messages say, the most first: one thing to do mends all of a kind."""
    alike: dict[str, list[CellRecord]] = {}
    for cell in cells:
        if cell.verdict is Verdict.NOT_RUN:
            alike.setdefault((cell.message or "").strip() or "no reason is given", []).append(cell)
    found = sorted(alike.items(), key=lambda each: -len(each[1]))
    return tuple((said, tuple(own)) for said, own in found)


def grouped_cells(cells: Iterable[CellRecord]) -> tuple[CellGroup, ...]:
    """`cells` by what a reader sees as one, the worst first."""
    alike: dict[tuple[str, Variant, Standing, str | None], list[CellRecord]] = {}
    for cell in cells:
        key = (cell.architecture, variant_of(cell), Standing(cell.verdict, cell.stage), cell.signature)
        alike.setdefault(key, []).append(cell)
    found = (CellGroup(*key, cells=tuple(own)) for key, own in alike.items())
    return tuple(sorted(found, key=lambda group: (group.standing.rank, -len(group.cells))))
