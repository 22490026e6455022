"""A run by clause: the architectures that violate it, and cells that are alike across architectures in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from conformance.core.contract import CLAUSES, Chapter, Clause
from conformance.core.verdicts import Verdict
from conformance.records.run import CellRecord

from .causes import Cause
from .status import FAILING, clause_order
from .variants import Columns, Variant, by_architecture, columns
from .verdicts import QUIET, count

#: A clause, and how it ended.
_Ended = tuple[str, Verdict]


@dataclass(frozen=True, slots=True)
class Inapplicable:
    """Architectures that a clause does not apply to, or that no clause applies to, for the same reason."""

    reason: str
    architectures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Alike:
    """Architectures whose cells ended alike: by variant, each clause with its verdict, in the contract's order."""

    by_variant: Mapping[Variant, tuple[CellRecord, ...]]
    architectures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClauseStatus:
    """A clause, and its cells in a run; `clause` is None for an id that is not in this contract.

    `causes` have only its cells, and unexpected ones come first.
    """

    id: str
    clause: Clause | None
    cells: tuple[CellRecord, ...]
    causes: tuple[Cause, ...]

    @property
    def chapter(self) -> str:
        """The title of its part of the contract."""
        return self.clause.chapter.value if self.clause else "Other clauses"

    @property
    def counts(self) -> tuple[tuple[Verdict, int], ...]:
        """The number of its cells by verdict."""
        return count(self.cells)

    @property
    def violated_by(self) -> tuple[str, ...]:
        """The architectures with a cell that fails, unexpected ones first; an unexpected pass violates nothing."""
        failing = (cell for cause in self.causes for cell in cause.cells if cell.verdict in FAILING)
        return tuple(dict.fromkeys(cell.architecture for cell in failing))

    @property
    def known(self) -> bool:
        """Whether all that fails is a known failure."""
        return all(cell.verdict is Verdict.EXPECTED_FAILURE for cell in self.cells if cell.verdict in FAILING)

    @property
    def judged_on(self) -> int:
        """The number of architectures that it was judged on."""
        unjudged = {Verdict.NOT_RUN, Verdict.NOT_APPLICABLE, Verdict.HARNESS_ERROR}
        return len({cell.architecture for cell in self.cells if cell.verdict not in unjudged})

    @property
    def inapplicable(self) -> tuple[Inapplicable, ...]:
        """Why it does not apply, where it does not, by reason."""
        by_reason: dict[str, list[str]] = {}
        for cell in self.cells:
            if cell.verdict is Verdict.NOT_APPLICABLE:
                by_reason.setdefault(cell.message or "no reason given", []).append(cell.architecture)
        return tuple(Inapplicable(reason, tuple(dict.fromkeys(names))) for reason, names in by_reason.items())


def clause_statuses(cells: Iterable[CellRecord], causes: Sequence[Cause]) -> tuple[ClauseStatus, ...]:
    """Every clause of the contract, and the others that `cells` are about; `causes` are those of all `cells`."""
    by_clause: dict[str, list[CellRecord]] = {clause.id: [] for clause in CLAUSES}
    for cell in cells:
        by_clause.setdefault(cell.clause, []).append(cell)
    of_causes: dict[str, list[Cause]] = {}
    for cause in causes:
        for name, part in cause.by_clause.items():
            of_causes.setdefault(name, []).append(part)
    known = {clause.id: clause for clause in CLAUSES}
    return tuple(
        ClauseStatus(name, known.get(name), tuple(by_clause[name]), tuple(of_causes.get(name, ())))
        for name in sorted(by_clause, key=clause_order)
    )


def alike(cells: Iterable[CellRecord]) -> tuple[Alike, ...]:
    """Architectures grouped by how their `cells` ended, the largest group first."""
    groups: dict[tuple[tuple[Variant, tuple[_Ended, ...]], ...], tuple[Columns, list[str]]] = {}
    for name, own in by_architecture(cells).items():
        by_variant = dict(sorted(columns(sorted(own, key=lambda cell: clause_order(cell.clause))).items()))
        key = tuple(
            (variant, tuple((cell.clause, cell.verdict) for cell in found)) for variant, found in by_variant.items()
        )
        groups.setdefault(key, (by_variant, []))[1].append(name)
    found = (Alike(by_variant, tuple(names)) for by_variant, names in groups.values())
    return tuple(sorted(found, key=lambda each: (-len(each.architectures), each.architectures)))


def chapters(cells: Iterable[CellRecord]) -> dict[str, tuple[CellRecord, ...]]:
    """Cells by the chapter of their clause, in the contract's order."""
    titles = {chapter.name: chapter.value for chapter in Chapter}
    by_title: dict[str, list[CellRecord]] = {}
    for cell in sorted(cells, key=lambda cell: clause_order(cell.clause)):
        by_title.setdefault(titles.get(cell.clause.partition("-")[0], "Other clauses"), []).append(cell)
    return {title: tuple(found) for title, found in by_title.items()}


def clause_ranges(clauses: Iterable[str]) -> tuple[str, ...]:
    """The ids in the contract's order, three and more in a row as one: `LOW-1…7`, `LOW-9`."""
    rows: list[list[str]] = []
    for clause in sorted(set(clauses), key=clause_order):
        if rows and _follows(rows[-1][-1], clause):
            rows[-1].append(clause)
        else:
            rows.append([clause])
    found: list[str] = []
    for row in rows:
        found += [f"{row[0]}…{row[-1].rpartition('-')[2]}"] if len(row) > 2 else row
    return tuple(found)


def _follows(first: str, second: str) -> bool:
    (chapter, _, number), (other, _, following) = first.rpartition("-"), second.rpartition("-")
    plain = number.isascii() and number.isdecimal() and following.isascii() and following.isdecimal()
    return chapter == other and plain and len(following) < 10 and int(following) == int(number) + 1


def needs_attention(cells: Iterable[CellRecord]) -> bool:
    """Whether any of `cells` neither passes nor is not applicable."""
    return any(cell.verdict not in QUIET for cell in cells)
