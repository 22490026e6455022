"""The status of a variant of an architecture: how far it gets, and which clauses it violates besides.

Every page, table, badge, history and the terminal print this status, with its signs and words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from conformance.core.cells import EAGER, EXPORTED
from conformance.core.contract import CLAUSES, Chapter, Level
from conformance.core.text import first_few, format_counts
from conformance.core.verdicts import ACCEPTABLE, STAGES, Stage, Verdict
from conformance.records.run import CellRecord

from .variants import Columns, Variant, cells_of, home_of
from .verdicts import ABSENT_GLYPH, GLYPHS, Outcome, count, outcome_of

_ORDER = {clause.id: index for index, clause in enumerate(CLAUSES)}
#: The clauses that are about cost or convenience; an id that is not in this contract counts as one that must hold.
SHOULD = frozenset(clause.id for clause in CLAUSES if clause.level is Level.SHOULD)
_OWN_EXPORT = frozenset(clause.id for clause in CLAUSES if clause.own_export)
#: The verdicts that violate a clause. An error of the suite itself shows nothing about the clause.
FAILING = frozenset({Verdict.FAIL, Verdict.EXPECTED_FAILURE, Verdict.CRASH, Verdict.TIMEOUT, Verdict.OUT_OF_MEMORY})
_ENDED = frozenset({Verdict.CRASH, Verdict.TIMEOUT, Verdict.OUT_OF_MEMORY})
_PASSING = frozenset({Verdict.PASS, Verdict.UNEXPECTED_PASS})
_UNJUDGED = frozenset({Verdict.NOT_RUN, Verdict.HARNESS_ERROR})
#: The signature of a stage that raised, `stage:ExceptionName:text`. What a clause is violated by is in lower case.
_RAISED = re.compile(r"[a-z]+:(?:\w*[A-Z]\w*|error):")
#: Clauses that a status names before "and N more".
_NAMED = 3


class Reached(StrEnum):
    """How far a program gets, by its `must` clauses, problems first; `BLOCKED` goes with a stage."""

    BLOCKED = "blocked"
    WRONG_RESULT = "wrong result"
    NOT_JUDGED = "not judged"
    COMPILED_ONLY = "compiled only"
    DECODES = "decodes correctly"
    NOT_APPLICABLE = "not applicable"
    ABSENT = "not in this run"


MEANINGS = {
    Reached.DECODES: "nothing that must hold fails, and at least one parity clause passes: it decodes like the oracle",
    Reached.COMPILED_ONLY: "lowered, or exported, and not run here, so that correctness is unknown",
    Reached.WRONG_RESULT: "it runs to the end and violates a clause that must hold, such as that its logits match",
    Reached.BLOCKED: "the stage that could not be done: an error, a crash or a limit",
    Reached.NOT_APPLICABLE: "no clause applies, such as where a model cannot decode with a static cache",
    Reached.NOT_JUDGED: "a clause that must hold was not run, or no parity clause was selected",
    Reached.ABSENT: "the run has no cell of it",
}
_FAILED = frozenset({Reached.BLOCKED, Reached.WRONG_RESULT})
KNOWN_GLYPH, UNEXPECTED_GLYPH = GLYPHS[Verdict.EXPECTED_FAILURE], GLYPHS[Verdict.FAIL]
_GLYPHS = {
    Reached.NOT_JUDGED: GLYPHS[Verdict.NOT_RUN],
    # Not the sign of a pass: the program was not run, so whether it decodes correctly is unknown.
    Reached.COMPILED_ONLY: "◇",
    Reached.DECODES: GLYPHS[Verdict.PASS],
    Reached.NOT_APPLICABLE: GLYPHS[Verdict.NOT_APPLICABLE],
    Reached.ABSENT: ABSENT_GLYPH,
}
_SHORT = {Reached.WRONG_RESULT: "wrong", Reached.NOT_JUDGED: "not judged", Reached.COMPILED_ONLY: "compiled"}
#: Names of filters of statuses: a `must` clause fails, as expected or not; a cell fails the run.
KNOWN, BROKEN, UNEXPECTED = "known failure", "broken", "anything unexpected"
#: The signs of each, with their style classes.
SIGNS = {
    reached: (
        ((KNOWN_GLYPH, "known"), (UNEXPECTED_GLYPH, "unexpected"))
        if reached in _FAILED
        else ((_GLYPHS[reached], reached.value.replace(" ", "-")),)
    )
    for reached in MEANINGS
}


@dataclass(frozen=True, slots=True)
class Violation:
    """A clause that is violated. It is known if each of its cells fails as the matrix expects."""

    clause: str
    level: Level
    known: bool


@dataclass(frozen=True, slots=True)
class Note:
    """A part of a status besides how far the program gets: a style class, a sign, and text."""

    kind: str
    glyph: str
    text: str

    def __str__(self) -> str:
        return self.text if self.kind == "known" else f"{self.glyph} {self.text}"


@dataclass(frozen=True, slots=True)
class Status:
    """How far a variant of an architecture gets, and the clauses that it violates, in the contract's order.

    `stage` is set if it is blocked. `counts` are the numbers of its cells by verdict, the worst first; statuses that
    differ only in them are equal.
    """

    reached: Reached
    stage: Stage | None = None
    violations: tuple[Violation, ...] = ()
    counts: tuple[tuple[Verdict, int], ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return ", ".join((f"{self.glyph} {self.words}", *map(str, self.notes)))

    @property
    def words(self) -> str:
        """How far it gets."""
        return f"blocked at {self.stage}" if self.reached is Reached.BLOCKED else self.reached.value

    @property
    def failed(self) -> bool:
        """Whether it is blocked or gives a wrong result."""
        return self.reached in _FAILED

    @property
    def known(self) -> bool:
        """Whether all failures of `must` clauses are known."""
        return all(violation.known for violation in self.violations if violation.level is Level.MUST)

    @property
    def label(self) -> str:
        """Its words without a sign."""
        return f"{self.words} (known)" if self.failed and self.known else self.words

    @property
    def short(self) -> str:
        """One word beside the sign: the stage that is blocked, or the kind of result."""
        return str(self.stage) if self.stage else _SHORT.get(self.reached, "")

    @property
    def tags(self) -> tuple[str, ...]:
        """What lists are filtered by: how far it gets, and whether what fails is known."""
        failed = (KNOWN if self.known else BROKEN,) if self.failed else ()
        return (self.reached.value, *failed, *((UNEXPECTED,) if self.unexpected else ()))

    @property
    def glyph(self) -> str:
        """Its sign."""
        return _GLYPHS.get(self.reached) or (KNOWN_GLYPH if self.known else UNEXPECTED_GLYPH)

    @property
    def kind(self) -> str:
        """Its style class."""
        if self.failed:
            return "known" if self.known else "unexpected"
        return self.reached.value.replace(" ", "-")

    @property
    def unexpected(self) -> int:
        """The number of its cells with a verdict that fails a run."""
        return sum(number for verdict, number in self.counts if verdict not in ACCEPTABLE)

    @property
    def remarkable(self) -> tuple[Violation, ...]:
        """The clauses that fail though it gets this far: where it is blocked, most violations follow from that."""
        hidden = self.reached is Reached.BLOCKED
        return tuple(each for each in self.violations if not hidden or (self.known and not each.known))

    @property
    def notes(self) -> tuple[Note, ...]:
        """The clauses that fail though it gets this far, the known ones first, and verdicts to look into."""
        known, unexpected = (
            [each.clause for each in self.remarkable if each.known is wanted] for wanted in (True, False)
        )
        notes = [Note("known", KNOWN_GLYPH, f"not {first_few(known, _NAMED)}")] if known else []
        notes += [Note("unexpected", UNEXPECTED_GLYPH, f"not {first_few(unexpected, _NAMED)}")] if unexpected else []
        for verdict, number in self.counts:
            if verdict in (Verdict.UNEXPECTED_PASS, Verdict.HARNESS_ERROR):
                notes.append(Note(verdict.value, GLYPHS[verdict], f"{number} × {verdict}"))
        return tuple(notes)

    @property
    def rank(self) -> int:
        """Its position among problems: unexpected ones first, and earlier stages before later ones."""
        stage = STAGES.index(self.stage) if self.stage else len(STAGES)
        return (0 if self.unexpected else 100) + 10 * list(Reached).index(self.reached) + stage


ABSENT = Status(Reached.ABSENT)


def clause_order(clause: str) -> tuple[int, str]:
    """The contract's order; ids that are not in this contract come last."""
    return _ORDER.get(clause, len(_ORDER)), clause


def status_of(cells: Sequence[CellRecord]) -> Status:
    """The status of a variant of one architecture, from the cells that it depends on (see `cells_of`).

    Only `must` clauses decide how far it gets; a clause that is not in this contract counts as one. The program's own
    cells are those of a backend, or if there are none, those of the exported program.
    """
    if not cells:
        return ABSENT
    lowered = [cell for cell in cells if cell.subject is not None and cell.backend not in (EAGER, EXPORTED)]
    own = lowered or [cell for cell in cells if cell.subject is not None]
    reached, stage = _reached(cells, own, is_lowered=bool(lowered))
    return Status(reached, stage, _violations(cells), count(cells))


def _reached(
    cells: Sequence[CellRecord], own: Sequence[CellRecord], *, is_lowered: bool
) -> tuple[Reached, Stage | None]:
    must = [cell for cell in cells if cell.clause not in SHOULD]
    failing = [cell for cell in must if cell.verdict in FAILING and not another_oracle_judges(cell)]
    blocking = [stage_of(cell, is_lowered=is_lowered) for cell in failing if _blocks(cell)]
    if blocking:
        return Reached.BLOCKED, min(blocking, key=STAGES.index)
    if failing:
        return Reached.WRONG_RESULT, None
    if own and all(cell.verdict is Verdict.NOT_APPLICABLE for cell in own):
        return Reached.NOT_APPLICABLE, None
    if any(cell.verdict in _UNJUDGED for cell in must):
        return Reached.NOT_JUDGED, None
    passing = [cell for cell in own if cell.verdict in _PASSING and cell.clause not in _OWN_EXPORT]
    if any(cell.clause not in SHOULD and cell.clause.startswith(f"{Chapter.PAR.name}-") for cell in passing):
        return Reached.DECODES, None
    compiled = passing and all(home_of(cell) is not Stage.EXECUTE for cell in passing)
    return (Reached.COMPILED_ONLY if compiled else Reached.NOT_JUDGED), None


def another_oracle_judges(cell: CellRecord) -> bool:
    """Whether the oracle that fails here is known to be wrong: the forward pass without a cache is the oracle then."""
    return cell.clause == "PAR-8" and cell.verdict is Verdict.EXPECTED_FAILURE


def _blocks(cell: CellRecord) -> bool:
    """Whether a failing cell shows that a stage could not be done, and not what the program does there.

    A clause that is violated before the stage that it is about was not reached. With a fixture that shows no fault, or
    an oracle that is wrong, nothing that follows means anything.
    """
    if cell.subject is None or cell.verdict in _ENDED or _RAISED.match(cell.signature or ""):
        return True
    return cell.stage is not None and STAGES.index(cell.stage) < STAGES.index(home_of(cell))


def stage_of(cell: CellRecord, *, is_lowered: bool) -> Stage:
    """The stage that a cell counts at: where it failed, or else the one that its clause is about.

    For a lowered program, all that the exported one does is part of its export.
    """
    if cell.subject is None:
        return cell.stage if cell.stage is Stage.BUILD else Stage.EAGER
    stage = cell.stage or home_of(cell)
    return Stage.EXPORT if is_lowered and cell.backend == EXPORTED and stage is Stage.EXECUTE else stage


def _violations(cells: Iterable[CellRecord]) -> tuple[Violation, ...]:
    known: dict[str, bool] = {}
    for cell in cells:
        if cell.verdict in FAILING:
            known[cell.clause] = known.get(cell.clause, True) and cell.verdict is Verdict.EXPECTED_FAILURE
    return tuple(
        Violation(clause, Level.SHOULD if clause in SHOULD else Level.MUST, known[clause])
        for clause in sorted(known, key=clause_order)
    )


def variant_status(columns: Columns, variant: Variant) -> Status:
    """The status of a variant of one architecture. Cells that it shares with others do not make it part of a run."""
    return status_of(cells_of(columns, variant)) if variant in columns else ABSENT


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage of one architecture in a variant.

    `passed` says that a later stage was reached: one of its cells passes, or failed there.
    """

    stage: Stage
    outcome: Outcome
    passed: bool
    counts: tuple[tuple[Verdict, int], ...]

    @property
    def description(self) -> str:
        """The text of its tooltip, and for screen readers."""
        if self.counts:
            return f"{self.stage}: {format_counts(self.counts)}"
        return f"{self.stage}: {'no check of its own; a later stage was reached' if self.passed else 'not reached'}"

    @property
    def kind(self) -> str:
        """Its style class."""
        return "passed" if self.passed and not self.counts else self.outcome.kind

    @property
    def glyph(self) -> str:
        """Its sign."""
        return GLYPHS[Verdict.PASS] if self.kind == "passed" else self.outcome.glyph


def stage_statuses(columns: Columns, variant: Variant) -> tuple[StageStatus, ...]:
    """The stages of `variant` of one architecture; each cell is counted at exactly one."""
    at: dict[Stage, list[CellRecord]] = {stage: [] for stage in variant.stages}
    for cell in cells_of(columns, variant):
        stage = stage_of(cell, is_lowered=variant.backend != EXPORTED)
        at[stage if stage in at else variant.stages[-1]].append(cell)
    statuses: list[StageStatus] = []
    passed = False
    for stage in reversed(variant.stages):
        statuses.append(StageStatus(stage, outcome_of(at[stage]), passed, count(at[stage])))
        passed = passed or any(map(_reached_its_stage, at[stage]))
    return tuple(reversed(statuses))


def _reached_its_stage(cell: CellRecord) -> bool:
    """Whether the cell went through the stages before its own: it passes, or its record names where it failed."""
    failed = cell.verdict in {Verdict.FAIL, Verdict.EXPECTED_FAILURE} and cell.stage is not None
    return failed or cell.verdict in _PASSING
