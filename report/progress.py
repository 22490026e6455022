"""How far each architecture gets in each column of a page, judged from its cells alone. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from conformance.core.cells import EAGER, EXPORTED
from conformance.core.contract import CLAUSES, Chapter
from conformance.core.verdicts import ACCEPTABLE, Stage, Verdict
from conformance.records.run import CellRecord
from report.pages import prose

#: The clause that asks for a program at the end of lowering.
_LOWERS = "LOW-1"
#: The verdicts that leave nothing to tell: the clause holds, or says nothing here.
QUIET = frozenset({Verdict.PASS, Verdict.NOT_APPLICABLE})
#: An expected failure with this signature has run to the end, and is off by no more than the matrix allows.
_DIFFERS = f"{Stage.EXECUTE}:logits-differ"

LEGEND = """\
A place stands for all clauses of that architecture, subject, backend and mode. The clauses of the `exported` program
of the same subject and mode count in it too, and so do those of the architecture's fixture.

| place | meaning |
| --- | --- |
| ✓, ≈, ✗ | nothing failed; only known failures, each of them listed with its reason; something else |
| decodes | every parity clause holds: it decodes as the oracle does |
| decodes, not EXP-9 | the same, but this other clause of the contract does not hold |
| differs | it decodes to the end, but its logits differ from the oracle's, as is known |
| build, eager, export, lower, emit, load, execute | the stage at which it stops, or gives wrong results |
| export: fail | the same, and it is not a known failure; the verdict follows the stage |
| a verdict alone, such as crash | it failed, and the stage is not known |
| lowered | a program came out at the end, and nothing executed it, as where a backend cannot run here |
| passes | nothing failed, but no parity clause was judged |
| – n/a | no clause says anything about it |
| an empty place | no run covers it |"""


class Column(NamedTuple):
    """A column of the grid."""

    subject: str
    backend: str
    mode: str


class Place(NamedTuple):
    """What one architecture comes to in one column.

    `missed` are the clauses that fail though it gets this far, `stopping` those that fail where it stops, in the
    contract's order; `conforms` says that each export and parity clause holds.
    """

    glyph: str
    reached: str
    missed: tuple[str, ...] = ()
    conforms: bool = False
    stopping: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.glyph} {self.reached}" + (f", not {', '.join(map(prose, self.missed))}" if self.missed else "")


def places_of(cells: Iterable[CellRecord]) -> dict[str, dict[Column, Place]]:
    """Each architecture's places. A program that was lowered had to be exported first, and both need the fixture."""
    own: defaultdict[tuple[str, Column], list[CellRecord]] = defaultdict(list)
    for cell in cells:
        own[cell.architecture, Column(cell.subject or "", cell.backend, cell.mode or "")].append(cell)
    places: defaultdict[str, dict[Column, Place]] = defaultdict(dict)
    for (architecture, column), mine in own.items():
        shared = own.get((architecture, Column("", EAGER, "")), [])
        exported = own.get((architecture, column._replace(backend=EXPORTED)), [])
        if column.subject:
            places[architecture][column] = _place(mine, shared + (exported if column.backend != EXPORTED else []))
    return places


def _place(own: Sequence[CellRecord], shared: Sequence[CellRecord]) -> Place:
    if all(cell.verdict is Verdict.NOT_APPLICABLE for cell in own):
        return Place("–", "n/a")
    cells = [*own, *shared]
    trouble = [cell for cell in cells if cell.verdict not in QUIET]
    glyph = "✗" if any(cell.verdict not in ACCEPTABLE for cell in trouble) else "≈" if trouble else "✓"
    if not any(chapter(cell) is Chapter.PAR and cell.verdict is not Verdict.NOT_APPLICABLE for cell in own):
        if any(cell.clause == _LOWERS and cell.verdict is Verdict.PASS for cell in own):
            return Place(glyph, "lowered", tuple(sorted({cell.clause for cell in trouble})))
        return _stopped(glyph, trouble, trouble) if trouble else Place(glyph, "passes")
    # How far a program gets shows in its parity. Another clause can fail without stopping it, such as EXP-9, which is
    # about misconfigured models. Sensitivity comes along: parity says nothing of a fixture that shows no fault.
    stopped = [cell for cell in trouble if chapter(cell) in {Chapter.PAR, Chapter.SEN}]
    missed = sorted({cell.clause for cell in trouble} - {cell.clause for cell in stopped})
    if not stopped:
        conforms = not any(chapter(cell) is Chapter.EXP for cell in trouble)
        return Place(glyph, "decodes", tuple(missed), conforms)
    if all(cell.verdict in ACCEPTABLE and cell.signature == _DIFFERS for cell in stopped):
        return Place(glyph, "differs", tuple(missed), stopping=clauses_of(stopped))
    return _stopped(glyph, stopped, trouble)


def _stopped(glyph: str, stopped: Iterable[CellRecord], trouble: Iterable[CellRecord]) -> Place:
    """At the earliest stage of what was not expected, or else of what was."""

    def order(cell: CellRecord) -> tuple[bool, int, str]:
        stage = list(Stage).index(cell.stage) if cell.stage else len(Stage)
        return cell.verdict in ACCEPTABLE, stage, cell.verdict

    first = min(stopped, key=order)
    there = [cell for cell in trouble if cell.stage is first.stage]
    parts = [first.stage, None if first.stage and first.verdict in ACCEPTABLE else first.verdict]
    return Place(glyph, ": ".join(part.value for part in parts if part), stopping=clauses_of(there))


def clauses_of(cells: Iterable[CellRecord]) -> tuple[str, ...]:
    """Their clauses in the contract's order; those that this contract does not know come last."""
    known = [clause.id for clause in CLAUSES]
    found = sorted({cell.clause for cell in cells})
    return tuple(sorted(found, key=lambda clause: known.index(clause) if clause in known else len(known)))


def columns_of(rows: Iterable[Mapping[Column, Place]]) -> list[Column]:
    """The columns, from left to right as a failure is best read: what comes before lowering first."""
    found = {column for row in rows for column in row}
    return sorted(found, key=lambda column: (column.subject, column.backend != EXPORTED, column))


def chapter(cell: CellRecord) -> Chapter | None:
    """The chapter of its clause; None for an id of which this contract knows no chapter."""
    return Chapter.__members__.get(cell.clause.partition("-")[0])
