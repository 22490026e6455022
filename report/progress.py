"""How far each architecture gets in each column of the generated pages, from its cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from conformance.core.cells import EAGER, EXPORTED
from conformance.core.contract import CLAUSES, Chapter
from conformance.core.verdicts import ACCEPTABLE, Stage, Verdict
from conformance.records.run import CellRecord

from .markdown import prose
from .model import QUIET

#: The clause that requires a program at the end of lowering.
_LOWERS = "LOW-1"
#: A known failure with this signature runs to the end, with an error within the bound of the matrix.
_DIFFERS = f"{Stage.EXECUTE}:logits-differ"

LEGEND = """\
Each entry covers all clauses of that architecture, subject, backend and mode, and also those of its fixture and of the
`exported` program of the same subject and mode.

| entry | meaning |
| --- | --- |
| ✓, ≈, ✗ | nothing failed; only known failures, each listed with its reason; unexpected results |
| decodes | every parity clause passes: it decodes like the oracle |
| decodes, not EXP-9 | the same, but this other clause of the contract fails |
| differs | known failure: it decodes to the end, but its logits differ from the oracle's |
| build, eager, export, lower, emit, load, execute | the stage at which it stops or gives wrong results |
| export: fail | the same, and it is not a known failure; the verdict follows the stage |
| a verdict alone, such as crash | it failed, and the stage is unknown |
| lowered | compiled only: lowering gave a program, which was not run, for example because its backend cannot run here |
| passes | nothing failed, but no parity clause was judged |
| – n/a | not applicable: no clause applies to it |
| empty | not in any run |"""


class Column(NamedTuple):
    """A column of the grid."""

    subject: str
    backend: str
    mode: str


class Progress(NamedTuple):
    """How far one architecture gets in one column.

    `missed` are the clauses that fail though it gets this far, `stopping` those that fail at the stage where it stops,
    in the contract's order; `conforms` says that each export and parity clause passes.
    """

    glyph: str
    reached: str
    missed: tuple[str, ...] = ()
    conforms: bool = False
    stopping: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.glyph} {self.reached}" + (f", not {', '.join(map(prose, self.missed))}" if self.missed else "")


def progress_of(cells: Iterable[CellRecord]) -> dict[str, dict[Column, Progress]]:
    """The progress of each architecture. A lowered program had to be exported first, and both need the fixture."""
    by_column: defaultdict[tuple[str, Column], list[CellRecord]] = defaultdict(list)
    for cell in cells:
        by_column[cell.architecture, Column(cell.subject or "", cell.backend, cell.mode or "")].append(cell)
    progress: defaultdict[str, dict[Column, Progress]] = defaultdict(dict)
    for (architecture, column), own in by_column.items():
        shared = by_column.get((architecture, Column("", EAGER, "")), [])
        exported = by_column.get((architecture, column._replace(backend=EXPORTED)), [])
        if column.subject:
            progress[architecture][column] = _progress(own, shared + (exported if column.backend != EXPORTED else []))
    return progress


def _progress(own: Sequence[CellRecord], shared: Sequence[CellRecord]) -> Progress:
    if all(cell.verdict is Verdict.NOT_APPLICABLE for cell in own):
        return Progress("–", "n/a")
    cells = [*own, *shared]
    trouble = [cell for cell in cells if cell.verdict not in QUIET]
    glyph = "✗" if any(cell.verdict not in ACCEPTABLE for cell in trouble) else "≈" if trouble else "✓"
    if not any(chapter(cell) is Chapter.PAR and cell.verdict is not Verdict.NOT_APPLICABLE for cell in own):
        if any(cell.clause == _LOWERS and cell.verdict is Verdict.PASS for cell in own):
            return Progress(glyph, "lowered", tuple(sorted({cell.clause for cell in trouble})))
        return _stopped(glyph, trouble, trouble) if trouble else Progress(glyph, "passes")
    # Parity shows how far a program gets. Other clauses can fail without stopping it, such as EXP-9, which is about
    # misconfigured models. Sensitivity counts too: parity means nothing with a fixture that shows no fault.
    stopped = [cell for cell in trouble if chapter(cell) in {Chapter.PAR, Chapter.SEN}]
    missed = sorted({cell.clause for cell in trouble} - {cell.clause for cell in stopped})
    if not stopped:
        conforms = not any(chapter(cell) is Chapter.EXP for cell in trouble)
        return Progress(glyph, "decodes", tuple(missed), conforms)
    if all(cell.verdict in ACCEPTABLE and cell.signature == _DIFFERS for cell in stopped):
        return Progress(glyph, "differs", tuple(missed), stopping=clauses_of(stopped))
    return _stopped(glyph, stopped, trouble)


def _stopped(glyph: str, stopped: Iterable[CellRecord], trouble: Iterable[CellRecord]) -> Progress:
    """Stopped at the earliest stage of the unexpected failures, or if there are none, of the known ones."""

    def order(cell: CellRecord) -> tuple[bool, int, str]:
        stage = list(Stage).index(cell.stage) if cell.stage else len(Stage)
        return cell.verdict in ACCEPTABLE, stage, cell.verdict

    first = min(stopped, key=order)
    there = [cell for cell in trouble if cell.stage is first.stage]
    parts = [first.stage, None if first.stage and first.verdict in ACCEPTABLE else first.verdict]
    return Progress(glyph, ": ".join(part.value for part in parts if part), stopping=clauses_of(there))


def clauses_of(cells: Iterable[CellRecord]) -> tuple[str, ...]:
    """Their clauses in the contract's order; ids that are not in this contract come last."""
    known = [clause.id for clause in CLAUSES]
    clauses = sorted({cell.clause for cell in cells})
    return tuple(sorted(clauses, key=lambda clause: known.index(clause) if clause in known else len(known)))


def columns_of(rows: Iterable[Mapping[Column, Progress]]) -> list[Column]:
    """The columns from left to right: for each subject, the exported program before the backends."""
    columns = {column for row in rows for column in row}
    return sorted(columns, key=lambda column: (column.subject, column.backend != EXPORTED, column))


def chapter(cell: CellRecord) -> Chapter | None:
    """The chapter of its clause; None if the contract has no such chapter."""
    return Chapter.__members__.get(cell.clause.partition("-")[0])
