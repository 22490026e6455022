"""What a run says of an architecture: variants, stages, and what a group of cells comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from conformance.core.cells import EAGER, EXPORTED
from conformance.core.contract import Chapter
from conformance.core.verdicts import ACCEPTABLE, Stage, Verdict
from conformance.records.run import CellRecord

#: What deserves a reader's attention first.
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
#: The verdicts with nothing to explain.
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
#: Where cells that hold may end before anything was run, and what that is called. It has a sign of its own: nobody has
#: seen such a program decode.
_SHORT = {Stage.EXPORT: "exported", Stage.LOWER: "lowered"}
SHORT_GLYPH = "◇"
#: The stage that a clause of a chapter speaks of, for cells whose record names none.
HOMES = {
    Chapter.EXP.name: Stage.EXPORT,
    Chapter.LOW.name: Stage.LOWER,
    Chapter.PAR.name: Stage.EXECUTE,
    Chapter.RUN.name: Stage.EXECUTE,
    Chapter.SEN.name: Stage.EAGER,
}


@dataclass(frozen=True, slots=True, order=True)
class Variant:
    """One way to take an architecture to a program: a column of a run. Parts that play no role are empty."""

    subject: str
    backend: str
    mode: str

    def __str__(self) -> str:
        return " · ".join(filter(None, (self.subject, self.backend, self.mode)))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that it goes through: a program that is not lowered knows neither lowering nor loading."""
        skipped = {Stage.LOWER, Stage.EMIT, Stage.LOAD} if self.backend == EXPORTED else set()
        if not self.subject:
            return (Stage.BUILD, Stage.EAGER)
        return tuple(stage for stage in STAGES if stage not in skipped)


#: One architecture's cells, by variant.
Columns: TypeAlias = Mapping[Variant, tuple[CellRecord, ...]]


@dataclass(frozen=True, slots=True)
class Standing:
    """What a group of cells comes to: its worst verdict, and the earliest stage it was met at, if that is known.

    If the verdict is a pass, `stage` is where the group ended before anything was run; see `standing`.
    """

    verdict: Verdict | None
    stage: Stage | None = None

    @property
    def short(self) -> str | None:
        """What was done, such as "lowered", where it holds and was not run."""
        return _SHORT.get(self.stage) if self.verdict is Verdict.PASS and self.stage else None

    @property
    def glyph(self) -> str:
        """The sign of the verdict."""
        return SHORT_GLYPH if self.short else GLYPHS[self.verdict] if self.verdict else "·"

    @property
    def kind(self) -> str:
        """The verdict as a style class; empty groups have one too, and those that were not run."""
        return self.short or (self.verdict.value if self.verdict else "none")

    @property
    def label(self) -> str:
        """In a few words."""
        match self.verdict:
            case None:
                return "not covered"
            case Verdict.PASS:
                return self.short or "holds"
            case Verdict.NOT_APPLICABLE:
                return "not applicable"
            case Verdict.NOT_RUN:
                return "not run"
            case Verdict.EXPECTED_FAILURE:
                return f"known, at {self.stage}" if self.stage else "known failure"
            case Verdict.FAIL:
                return f"fails at {self.stage}" if self.stage else "fails"
            case Verdict.UNEXPECTED_PASS:
                return "passes, listed as failing"
            case other:
                return f"{other} at {self.stage}" if self.stage else other.value

    @property
    def rank(self) -> int:
        """Its place among problems: the worst first, and what stops earlier before what gets further."""
        if self.verdict is None:
            return len(WORST_FIRST) * 10
        stage = STAGES.index(self.stage) if self.stage else len(STAGES)
        return WORST_FIRST.index(self.verdict) * 10 + stage


@dataclass(frozen=True, slots=True)
class StagePlace:
    """One stage of one architecture in a variant.

    `passed` says that a cell of a later stage holds, or failed there, so that this one was gone through.
    """

    stage: Stage
    standing: Standing
    passed: bool
    counts: tuple[tuple[Verdict, int], ...]

    @property
    def told(self) -> str:
        """For a tooltip and a screen reader."""
        if self.counts:
            return f"{self.stage}: {told(self.counts)}"
        return f"{self.stage}: {'gone through' if self.passed else 'not reached'}"


def count(cells: Iterable[CellRecord]) -> tuple[tuple[Verdict, int], ...]:
    """How many cells have each verdict, the worst first, without those that none has."""
    counts = Counter(cell.verdict for cell in cells)
    return tuple((verdict, counts[verdict]) for verdict in WORST_FIRST if counts[verdict])


def told(counts: Iterable[tuple[Verdict, int]]) -> str:
    """Counts as text."""
    return ", ".join(f"{number} {verdict}" for verdict, number in counts)


def by_architecture(cells: Iterable[CellRecord]) -> dict[str, tuple[CellRecord, ...]]:
    """Each architecture's cells, in the order of the record."""
    found: dict[str, list[CellRecord]] = {}
    for cell in cells:
        found.setdefault(cell.architecture, []).append(cell)
    return {name: tuple(own) for name, own in found.items()}


def variant_of(cell: CellRecord) -> Variant:
    """The column that the cell itself is of."""
    return Variant(cell.subject or "", cell.backend, cell.mode or "")


def variants(cells: Iterable[CellRecord]) -> tuple[Variant, ...]:
    """The columns of a run, the one to show first first.

    What was lowered comes before what was only exported, and what is run before what is only lowered: it tells more.
    Cells without a subject belong to every variant, and are one of their own only if there is no other.
    """
    found: dict[Variant, bool] = {}
    for cell in cells:
        variant = variant_of(cell)
        is_run = _home_of(cell.clause) is Stage.EXECUTE and cell.verdict is not Verdict.NOT_RUN
        found[variant] = found.get(variant, False) or is_run
    chosen = [variant for variant in found if variant.subject] or found
    return tuple(sorted(chosen, key=lambda variant: _reading_order(variant, is_run=found[variant])))


def _reading_order(variant: Variant, *, is_run: bool) -> tuple[bool, bool, bool, bool, Variant]:
    # `portable` delegates nothing: what a device would run comes first.
    late = variant.backend in {EXPORTED, EAGER}
    return variant.subject != "reference", late, not is_run, variant.backend == "portable", variant


def columns(cells: Iterable[CellRecord]) -> Columns:
    """The cells of one architecture by variant, those without a subject among them."""
    found: dict[Variant, list[CellRecord]] = {}
    for cell in cells:
        found.setdefault(variant_of(cell), []).append(cell)
    return {variant: tuple(own) for variant, own in found.items()}


def cells_of(found: Columns, variant: Variant) -> tuple[CellRecord, ...]:
    """All that has to hold for `variant`: the fixture, the exported program that was lowered, and its own cells."""
    exported = Variant(variant.subject, EXPORTED, variant.mode)
    parts = [each for each in found if not each.subject or each in (variant, exported)]
    return tuple(cell for part in parts for cell in found[part])


def standing(cells: Sequence[CellRecord]) -> Standing:
    """The worst verdict of `cells`, and the earliest stage among those that have it.

    Where they hold, and none that was run is among them, the stage is the last thing that was done: a backend that can
    only lower here must not look like one that decodes.
    """
    worst = _worst(cells)
    return Standing(Verdict.PASS, _short_of(cells)) if worst.verdict is Verdict.PASS else worst


def _worst(cells: Sequence[CellRecord]) -> Standing:
    if not cells:
        return Standing(None)
    worst = min((cell.verdict for cell in cells), key=WORST_FIRST.index)
    stages = [cell.stage for cell in cells if cell.verdict is worst and cell.stage]
    return Standing(worst, min(stages, key=STAGES.index, default=None))


def _short_of(cells: Iterable[CellRecord]) -> Stage | None:
    """Where cells of which none fails ended; None if some were run, or if there is nothing to run.

    If anything was lowered, what torch made of the exported program says nothing of how that runs.
    """
    held = [cell for cell in cells if cell.verdict is Verdict.PASS and cell.subject]
    lowered = [cell for cell in held if cell.backend not in {EAGER, EXPORTED}]
    exported = [cell for cell in held if cell.backend == EXPORTED]
    for own, end in ((lowered, Stage.LOWER), (exported, Stage.EXPORT)):
        if own:
            return None if any(home(cell) is Stage.EXECUTE for cell in own) else end
    return None


def variant_standing(found: Columns, variant: Variant) -> Standing:
    """What `variant` of one architecture comes to.

    Cells that it shares with others can spoil it, but cannot hold in its place: if nothing of its own was judged,
    nothing is known of it.
    """
    own = standing(found.get(variant, ()))
    whole = standing(cells_of(found, variant))
    troubled = whole.verdict is not None and whole.verdict not in QUIET
    return whole if troubled or own.verdict is Verdict.PASS else own


def _home_of(clause: str) -> Stage:
    return HOMES.get(clause.partition("-")[0], Stage.EXECUTE)


def home(cell: CellRecord, variant: Variant | None = None) -> Stage:
    """The stage that a cell counts at.

    Seen from a lowered variant, an exported program that computes the wrong logits is an export gone wrong.
    """
    stage = cell.stage or _home_of(cell.clause)
    if not cell.stage and cell.subject is None:
        stage = Stage.EAGER
    if variant and stage not in variant.stages:
        return variant.stages[-1]
    if variant and cell.backend == EXPORTED != variant.backend and stage is Stage.EXECUTE:
        return Stage.EXPORT
    return stage


def stage_places(found: Columns, variant: Variant) -> tuple[StagePlace, ...]:
    """The stages of `variant` of one architecture; each cell counts at exactly one."""
    at: dict[Stage, list[CellRecord]] = {stage: [] for stage in variant.stages}
    for cell in cells_of(found, variant):
        at[home(cell, variant)].append(cell)
    places: list[StagePlace] = []
    passed = False
    for stage in reversed(variant.stages):
        places.append(StagePlace(stage, _worst(at[stage]), passed, count(at[stage])))
        passed = passed or any(map(_got_to_its_stage, at[stage]))
    return tuple(reversed(places))


def _got_to_its_stage(cell: CellRecord) -> bool:
    """Whether the stages before its own were gone through: it holds, or it says itself where it failed."""
    failed = cell.verdict in {Verdict.FAIL, Verdict.EXPECTED_FAILURE} and cell.stage is not None
    return failed or cell.verdict in {Verdict.PASS, Verdict.UNEXPECTED_PASS}


def acceptable(cells: Iterable[CellRecord]) -> bool:
    """Whether a run of these cells alone would exit with 0."""
    return all(cell.verdict in ACCEPTABLE for cell in cells)
