"""The content of a report on some runs, computed in one pass; the code that prints it computes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conformance.core.cells import split_row
from conformance.core.contract import Level
from conformance.core.text import plural
from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.records.run import CellRecord, Environment, RunInfo, RunRecord

from .causes import Cause, Unrun, causes, unrun
from .clauses import ClauseStatus, Inapplicable, clause_statuses
from .compare import Comparison, compare
from .history import PastRun, Since, Versions, past_run, since
from .result import Result, result_of
from .status import ABSENT, Reached, StageStatus, Status, clause_order, stage_statuses
from .variants import Columns, Variant, by_architecture, variants
from .verdicts import count

if TYPE_CHECKING:
    from conformance.matrix.schema import Expectation, Matrix, Row

#: Reports show only the newest of very many runs.
COMPARED, _VERSIONS = 20, 20


@dataclass(frozen=True, slots=True)
class VariantState:
    """A variant of an architecture: its status, the statuses of its stages, and since when it is so."""

    variant: Variant
    status: Status
    stages: tuple[StageStatus, ...]
    since: Since | None

    @property
    def covered(self) -> bool:
        """Whether the run has cells of it."""
        return self.status.reached is not Reached.ABSENT


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row of the newest run: an architecture, or a variation of its fixture.

    `states` are those of all variants of the run. `row` and `undecodable` are from the matrix, where it is known.
    """

    name: str
    cells: tuple[CellRecord, ...]
    columns: Columns
    states: tuple[VariantState, ...]
    causes: tuple[Cause, ...]
    unrun: tuple[Unrun, ...]
    row: Row | None = None
    undecodable: Expectation | None = None

    @property
    def is_variation(self) -> bool:
        """Whether it is a variation of another row's fixture."""
        return split_row(self.name)[1] is not None

    @property
    def tier(self) -> str:
        """How often it is tested; empty if the matrix does not list it."""
        return self.row.tier.value if self.row else ""

    @property
    def caches(self) -> tuple[str, ...]:
        """The kinds of its cache layers."""
        return self.row.caches if self.row else ()

    @property
    def counts(self) -> tuple[tuple[Verdict, int], ...]:
        """The number of its cells by verdict."""
        return count(self.cells)

    @property
    def covered(self) -> tuple[VariantState, ...]:
        """The variants that it has cells of."""
        return tuple(state for state in self.states if state.covered)

    @property
    def worst(self) -> Status:
        """The worst of its statuses."""
        return min((state.status for state in self.states), key=lambda status: status.rank)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many architectures have a status; `kind`, `glyph` and `label` are those of the status."""

    reached: Reached
    kind: str
    glyph: str
    label: str
    number: int

    def __str__(self) -> str:
        return f"{self.glyph} {self.number} {self.label}"


@dataclass(frozen=True, slots=True)
class Missed:
    """A `should` clause that programs violate though they are not blocked, and how many of them, expected to or not."""

    clause: str
    known: int
    unexpected: int


@dataclass(frozen=True, slots=True)
class Headline:
    """How many architectures decode correctly in a variant; variations of fixtures are counted apart.

    `decoding` and `of` count base architectures, `varied_decoding` and `varied` variations. `tallies` and `missed` are
    of base architectures, and so is `broken_since`: since when those that fail unexpectedly do.
    """

    variant: Variant
    decoding: int
    of: int
    varied_decoding: int
    varied: int
    tallies: tuple[Tally, ...]
    missed: tuple[Missed, ...]
    broken_since: tuple[Since, ...] = ()

    @property
    def known(self) -> int:
        """The number of architectures with a known failure of a `must` clause."""
        return self._failed - self.broken

    @property
    def broken(self) -> int:
        """The number of architectures with an unexpected failure of a `must` clause."""
        return sum(tally.number for tally in self.tallies if tally.kind == "unexpected")

    @property
    def _failed(self) -> int:
        return sum(tally.number for tally in self.tallies if tally.kind in ("known", "unexpected"))

    @property
    def text(self) -> str:
        """`5 of 8 architectures decode correctly`, and variations if there are any."""
        if not self.variant.subject:
            return f"the fixtures of {plural(self.of, 'architecture')}, without a program"
        text = f"{self.decoding} of {self.of} architectures decode correctly"
        return text + (f", {self.varied_decoding} of {self.varied} variations" if self.varied else "")

    @property
    def others(self) -> str:
        """How many have each of the other statuses."""
        return ", ".join(str(tally) for tally in self.tallies if tally.reached is not Reached.DECODES)


@dataclass(frozen=True, slots=True)
class VersionsColumn:
    """A set of versions, and by variant the status of each architecture in the newest run with them that has it."""

    versions: Versions
    statuses: Mapping[Variant, Mapping[str, Status]]

    def status(self, variant: Variant, architecture: str) -> Status:
        """The status of a variant of an architecture."""
        return self.statuses.get(variant, {}).get(architecture, ABSENT)


@dataclass(frozen=True, slots=True)
class Report:
    """The newest run, with the others for comparison; `runs` are oldest first.

    `comparisons` are those with the older runs, the newest first. `hidden_versions` are the sets of versions that
    `by_versions` leaves out.
    """

    runs: tuple[PastRun, ...]
    variants: tuple[Variant, ...]
    architectures: tuple[Architecture, ...]
    headlines: tuple[Headline, ...]
    causes: tuple[Cause, ...]
    unrun: tuple[Unrun, ...]
    inapplicable: tuple[Inapplicable, ...]
    clauses: tuple[ClauseStatus, ...]
    comparisons: tuple[Comparison, ...]
    by_versions: tuple[VersionsColumn, ...]
    hidden_versions: int

    @property
    def run(self) -> RunRecord:
        """The newest run."""
        return self.runs[-1].run

    @property
    def subjects(self) -> tuple[str, ...]:
        """The exporters of its variants."""
        return tuple(dict.fromkeys(variant.subject for variant in self.variants))

    @property
    def counts(self) -> tuple[tuple[Verdict, int], ...]:
        """The number of cells by verdict."""
        return count(self.run.cells)

    @property
    def unexpected(self) -> int:
        """The number of cells with a verdict that fails a run."""
        return sum(number for verdict, number in self.counts if verdict not in ACCEPTABLE)

    @property
    def result(self) -> Result:
        """The overall result of the newest run."""
        return result_of(self.run)

    def short(self, variant: Variant) -> str:
        """The name of a variant, without its exporter if that of all is the suite's own."""
        whole = self.subjects not in {("reference",), ("",), ()}
        return str(variant) if whole else f"{variant.backend} {variant.mode}".strip()

    def parts(self, variant: Variant) -> tuple[str, ...]:
        """The parts of the name of a variant, for the head of a narrow column; a reference beside others is named."""
        subject = variant.subject if self.subjects != ("reference",) else ""
        return tuple(filter(None, (variant.backend, variant.mode, subject)))

    def past(self, architecture: str) -> tuple[PastRun, ...]:
        """The runs that have the architecture, newest first."""
        return tuple(past for past in reversed(self.runs) if architecture in past.columns)


def analyse(runs: Sequence[RunRecord], matrix: Matrix | None = None, base: RunRecord | None = None) -> Report:
    """The report on the last of `runs`, which are oldest first; see `past_run` for a `base` that is not among them."""
    earlier = (*runs, *([base] if base else []))
    pasts = tuple(past_run(run, earlier) for run in runs)
    run = runs[-1]
    shown = variants(run.cells)
    all_causes = causes(run.cells)
    architectures = tuple(_architectures(pasts, shown, all_causes, matrix))
    columns = _by_versions(pasts)
    return Report(
        pasts,
        shown,
        architectures,
        tuple(_headline(variant, architectures) for variant in shown),
        all_causes,
        unrun(run.cells),
        _inapplicable(architectures),
        clause_statuses(run.cells, all_causes),
        tuple(compare(base, run) for base in reversed(runs[:-1][-COMPARED:])),
        columns[:_VERSIONS],
        max(0, len(columns) - _VERSIONS),
    )


def analyse_cells(cells: Sequence[CellRecord]) -> Report:
    """The report on cells of a run that is not written yet."""
    info = RunInfo(id="", started="", finished=None, complete=False, options={}, seed=None)
    return analyse([RunRecord(1, info, Environment("", "", "", {}), tuple(cells))])


def _architectures(
    runs: Sequence[PastRun], shown: Sequence[Variant], all_causes: Iterable[Cause], matrix: Matrix | None
) -> Iterable[Architecture]:
    parts: dict[str, list[Cause]] = {}
    for cause in all_causes:
        for name, part in cause.parts.items():
            parts.setdefault(name, []).append(part)
    head = runs[-1]
    for name, cells in sorted(by_architecture(head.run.cells).items()):
        columns = head.columns[name]
        # An architecture of which the run has only the fixture has a variant of its own.
        others = [] if any(variant in columns for variant in shown) else list(columns)
        states = (
            VariantState(
                variant, head.status(name, variant), stage_statuses(columns, variant), since(runs, name, variant)
            )
            for variant in (*shown, *others)
        )
        yield Architecture(
            name,
            cells,
            columns,
            tuple(states),
            tuple(parts.get(name, ())),
            unrun(cells),
            matrix.row(name) if matrix else None,
            matrix.undecodable(name, head.run.environment.packages) if matrix else None,
        )


def _inapplicable(architectures: Iterable[Architecture]) -> tuple[Inapplicable, ...]:
    by_reason: dict[str, list[str]] = {}
    for each in architectures:
        if all(cell.verdict is Verdict.NOT_APPLICABLE for cell in each.cells):
            reasons = sorted({cell.message or "no reason given" for cell in each.cells})
            by_reason.setdefault("; ".join(reasons), []).append(each.name)
    return tuple(Inapplicable(reason, tuple(names)) for reason, names in by_reason.items())


def _headline(variant: Variant, architectures: Iterable[Architecture]) -> Headline:
    found = [(each.is_variation, state) for each in architectures for state in each.covered if state.variant == variant]
    states, others = ([state for is_variation, state in found if is_variation is wanted] for wanted in (False, True))
    base, varied = ([state.status for state in kind] for kind in (states, others))
    decoding, varied_decoding = (sum(each.reached is Reached.DECODES for each in kind) for kind in (base, varied))
    broken = [state.since for state in states if state.status.failed and not state.status.known and state.since]
    return Headline(
        variant, decoding, len(base), varied_decoding, len(varied), _tallies(base), _missed(base), tuple(broken)
    )


def _tallies(statuses: Iterable[Status]) -> tuple[Tally, ...]:
    """Those that decode first, then problems first."""
    ranked = sorted(statuses, key=lambda status: (status.reached is not Reached.DECODES, status.rank))
    counts = Counter((status.reached, status.kind, status.glyph, status.label) for status in ranked)
    return tuple(Tally(*key, number=number) for key, number in counts.items())


def _missed(statuses: Iterable[Status]) -> tuple[Missed, ...]:
    found: dict[str, Counter[bool]] = {}
    for status in statuses:
        for each in status.violations if status.reached is not Reached.BLOCKED else ():
            if each.level is Level.SHOULD:
                found.setdefault(each.clause, Counter())[each.known] += 1
    ordered = sorted(found.items(), key=lambda item: clause_order(item[0]))
    return tuple(Missed(clause, known[True], known[False]) for clause, known in ordered)


def _by_versions(runs: Sequence[PastRun]) -> tuple[VersionsColumn, ...]:
    """For each set of versions, newest run first, the newest run that has the architecture."""
    latest: dict[Versions, dict[Variant, dict[str, Status]]] = {}
    for past in reversed(runs):
        column = latest.setdefault(past.versions, {})
        for name, statuses in past.statuses.items():
            for variant, status in statuses.items():
                column.setdefault(variant, {}).setdefault(name, status)
    return tuple(VersionsColumn(*item) for item in latest.items())
