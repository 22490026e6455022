"""Variants, stages, and the status of groups of cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from conformance.core.cells import EAGER, EXPORTED
from conformance.core.contract import Chapter
from conformance.core.text import format_counts
from conformance.core.verdicts import ACCEPTABLE, Stage, Verdict
from conformance.records.run import CellRecord

WORST_FIRST = (
    Verdict.CRASH,
    Verdict.OUT_OF_MEMORY,
    Verdict.TIMEOUT,
    Verdict.HARNESS_ERROR,
    Verdict.FAIL,
    Verdict.UNEXPECTED_PASS,
    Verdict.NOT_RUN,
    Verdict.EXPECTED_FAILURE,
    Verdict.PASS,
    Verdict.NOT_APPLICABLE,
)
#: The verdicts that need no explanation.
QUIET = frozenset({Verdict.PASS, Verdict.NOT_APPLICABLE})
GLYPHS = {
    Verdict.PASS: "✓",
    Verdict.FAIL: "✗",
    Verdict.EXPECTED_FAILURE: "≈",
    Verdict.UNEXPECTED_PASS: "↑",
    Verdict.NOT_APPLICABLE: "–",
    Verdict.NOT_RUN: "○",
    Verdict.CRASH: "✱",
    Verdict.TIMEOUT: "◔",
    Verdict.OUT_OF_MEMORY: "▣",
    Verdict.HARNESS_ERROR: "?",
}
STAGES = tuple(Stage)
#: The stage at which a program that only compiles ends, and its label. Its sign is not that of a pass: the program was
#: not run, so whether it decodes correctly is unknown.
_COMPILED_ONLY = {Stage.EXPORT: "exported", Stage.LOWER: "lowered"}
COMPILED_ONLY_GLYPH = "◇"
#: The stage that a chapter's clauses are about, for cells whose record names none.
HOMES = {
    Chapter.EXP.name: Stage.EXPORT,
    Chapter.LOW.name: Stage.LOWER,
    Chapter.PAR.name: Stage.EXECUTE,
    Chapter.RUN.name: Stage.EXECUTE,
    Chapter.SEN.name: Stage.EAGER,
}


@dataclass(frozen=True, slots=True, order=True)
class Variant:
    """A column of a run: exporter, backend and mode. Parts that do not apply are empty."""

    subject: str
    backend: str
    mode: str

    def __str__(self) -> str:
        return " · ".join(filter(None, (self.subject, self.backend, self.mode)))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that it goes through: a program that is not lowered has no lowering, emission or loading."""
        skipped = {Stage.LOWER, Stage.EMIT, Stage.LOAD} if self.backend == EXPORTED else set()
        if not self.subject:
            return (Stage.BUILD, Stage.EAGER)
        return tuple(stage for stage in STAGES if stage not in skipped)


#: One architecture's cells, by variant.
Columns: TypeAlias = Mapping[Variant, tuple[CellRecord, ...]]


@dataclass(frozen=True, slots=True)
class Status:
    """The worst verdict of a group of cells, and the earliest stage at which it occurred, if that is known.

    If the verdict is a pass, `stage` is set for programs that were compiled only; see `status_of`.
    """

    verdict: Verdict | None
    stage: Stage | None = None

    @property
    def compiled_only(self) -> str | None:
        """`lowered` or `exported`, if the cells pass and the program was not run."""
        return _COMPILED_ONLY.get(self.stage) if self.verdict is Verdict.PASS and self.stage else None

    @property
    def glyph(self) -> str:
        """Its sign."""
        return COMPILED_ONLY_GLYPH if self.compiled_only else GLYPHS[self.verdict] if self.verdict else "·"

    @property
    def kind(self) -> str:
        """Its style class; groups without cells have one too."""
        return self.compiled_only or (self.verdict.value if self.verdict else "none")

    @property
    def label(self) -> str:
        """Its name in tables."""
        match self.verdict:
            case None:
                return "not in this run"
            case Verdict.PASS:
                return self.compiled_only or "passes"
            case Verdict.NOT_APPLICABLE:
                return "not applicable"
            case Verdict.NOT_RUN:
                return "not run"
            case Verdict.EXPECTED_FAILURE:
                return f"known failure ({self.stage})" if self.stage else "known failure"
            case Verdict.FAIL:
                return f"fails at {self.stage}" if self.stage else "fails"
            case Verdict.UNEXPECTED_PASS:
                return "unexpected pass"
            case other:
                return f"{other} at {self.stage}" if self.stage else other.value

    @property
    def rank(self) -> int:
        """Its position among problems: the worst verdict first, and earlier stages before later ones."""
        if self.verdict is None:
            return len(WORST_FIRST) * 10
        stage = STAGES.index(self.stage) if self.stage else len(STAGES)
        return WORST_FIRST.index(self.verdict) * 10 + stage


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage of one architecture in a variant.

    `passed` says that a later stage was reached: one of its cells passes, or failed there.
    """

    stage: Stage
    status: Status
    passed: bool
    counts: tuple[tuple[Verdict, int], ...]

    @property
    def description(self) -> str:
        """The text of its tooltip, and for screen readers."""
        if self.counts:
            return f"{self.stage}: {format_counts(self.counts)}"
        return f"{self.stage}: {'no check of its own; a later stage was reached' if self.passed else 'not reached'}"


def count(cells: Iterable[CellRecord]) -> tuple[tuple[Verdict, int], ...]:
    """The number of cells with each verdict, the worst first; verdicts without cells are left out."""
    counts = Counter(cell.verdict for cell in cells)
    return tuple((verdict, counts[verdict]) for verdict in WORST_FIRST if counts[verdict])


def by_architecture(cells: Iterable[CellRecord]) -> dict[str, tuple[CellRecord, ...]]:
    """Each architecture's cells, in the order of the record."""
    by_name: dict[str, list[CellRecord]] = {}
    for cell in cells:
        by_name.setdefault(cell.architecture, []).append(cell)
    return {name: tuple(alike) for name, alike in by_name.items()}


def variant_of(cell: CellRecord) -> Variant:
    """The cell's own column."""
    return Variant(cell.subject or "", cell.backend, cell.mode or "")


def variants(cells: Iterable[CellRecord]) -> tuple[Variant, ...]:
    """The columns of a run, the most informative first.

    Programs that are run come before those that are only lowered, and these before those that are only exported. Cells
    without a subject belong to every variant, and are one of their own only if there is no other.
    """
    run: dict[Variant, bool] = {}
    for cell in cells:
        variant = variant_of(cell)
        is_run = _home_of(cell.clause) is Stage.EXECUTE and cell.verdict is not Verdict.NOT_RUN
        run[variant] = run.get(variant, False) or is_run
    with_subject = [variant for variant in run if variant.subject]
    return tuple(sorted(with_subject or run, key=lambda variant: _reading_order(variant, is_run=run[variant])))


def _reading_order(variant: Variant, *, is_run: bool) -> tuple[bool, bool, bool, bool, Variant]:
    # `portable` delegates nothing: programs as a device would run them come first.
    late = variant.backend in {EXPORTED, EAGER}
    return variant.subject != "reference", late, not is_run, variant.backend == "portable", variant


def columns(cells: Iterable[CellRecord]) -> Columns:
    """The cells of one architecture by variant; those without a subject too."""
    by_variant: dict[Variant, list[CellRecord]] = {}
    for cell in cells:
        by_variant.setdefault(variant_of(cell), []).append(cell)
    return {variant: tuple(alike) for variant, alike in by_variant.items()}


def cells_of(columns: Columns, variant: Variant) -> tuple[CellRecord, ...]:
    """The cells that `variant` depends on: of the fixture, of the exported program that was lowered, and its own."""
    exported = Variant(variant.subject, EXPORTED, variant.mode)
    parts = [column for column in columns if not column.subject or column in (variant, exported)]
    return tuple(cell for part in parts for cell in columns[part])


def status_of(cells: Sequence[CellRecord]) -> Status:
    """The worst verdict of `cells`, and the earliest stage among those that have it.

    If they pass and none of them was run, the stage is the last one that was done: a backend that can only lower here
    must not look like one that decodes.
    """
    worst = _worst(cells)
    return Status(Verdict.PASS, _last_compiled(cells)) if worst.verdict is Verdict.PASS else worst


def _worst(cells: Sequence[CellRecord]) -> Status:
    if not cells:
        return Status(None)
    worst = min((cell.verdict for cell in cells), key=WORST_FIRST.index)
    stages = [cell.stage for cell in cells if cell.verdict is worst and cell.stage]
    return Status(worst, min(stages, key=STAGES.index, default=None))


def _last_compiled(cells: Iterable[CellRecord]) -> Stage | None:
    """The last stage of cells that do not fail; None if a program was run, or if there is none.

    If anything was lowered, running the exported program in torch says nothing about how the lowered one runs.
    """
    passing = [cell for cell in cells if cell.verdict is Verdict.PASS and cell.subject]
    lowered = [cell for cell in passing if cell.backend not in {EAGER, EXPORTED}]
    exported = [cell for cell in passing if cell.backend == EXPORTED]
    for programs, end in ((lowered, Stage.LOWER), (exported, Stage.EXPORT)):
        if programs:
            return None if any(home(cell) is Stage.EXECUTE for cell in programs) else end
    return None


def variant_status(columns: Columns, variant: Variant) -> Status:
    """The status of `variant` of one architecture.

    Cells that it shares with other variants can make it fail but not pass: if none of its own cells was judged, nothing
    is known about it.
    """
    alone = status_of(columns.get(variant, ()))
    with_shared = status_of(cells_of(columns, variant))
    fails = with_shared.verdict is not None and with_shared.verdict not in QUIET
    return with_shared if fails or alone.verdict is Verdict.PASS else alone


def _home_of(clause: str) -> Stage:
    return HOMES.get(clause.partition("-")[0], Stage.EXECUTE)


def home(cell: CellRecord, variant: Variant | None = None) -> Stage:
    """The stage that a cell is counted at.

    In a lowered variant, an exported program that computes wrong logits counts as a failed export.
    """
    stage = cell.stage or _home_of(cell.clause)
    if not cell.stage and cell.subject is None:
        stage = Stage.EAGER
    if variant and stage not in variant.stages:
        return variant.stages[-1]
    if variant and cell.backend == EXPORTED != variant.backend and stage is Stage.EXECUTE:
        return Stage.EXPORT
    return stage


def stage_statuses(columns: Columns, variant: Variant) -> tuple[StageStatus, ...]:
    """The stages of `variant` of one architecture; each cell is counted at exactly one."""
    at: dict[Stage, list[CellRecord]] = {stage: [] for stage in variant.stages}
    for cell in cells_of(columns, variant):
        at[home(cell, variant)].append(cell)
    statuses: list[StageStatus] = []
    passed = False
    for stage in reversed(variant.stages):
        statuses.append(StageStatus(stage, _worst(at[stage]), passed, count(at[stage])))
        passed = passed or any(map(_reached_its_stage, at[stage]))
    return tuple(reversed(statuses))


def _reached_its_stage(cell: CellRecord) -> bool:
    """Whether the cell went through the stages before its own: it passes, or its record names where it failed."""
    failed = cell.verdict in {Verdict.FAIL, Verdict.EXPECTED_FAILURE} and cell.stage is not None
    return failed or cell.verdict in {Verdict.PASS, Verdict.UNEXPECTED_PASS}


def acceptable(cells: Iterable[CellRecord]) -> bool:
    """Whether a run of these cells alone would exit with 0."""
    return all(cell.verdict in ACCEPTABLE for cell in cells)
