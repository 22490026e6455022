"""Two runs, compared cell by cell: the basis of the gate, and of the summary and the page of a change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from conformance.core.contract import Level
from conformance.core.verdicts import ACCEPTABLE, STAGES, Verdict
from conformance.records.run import CellRecord, RunRecord

from ..errors import ReportError
from .status import SHOULD
from .variants import Variant, variant_of
from .verdicts import Outcome

_PASSES = frozenset({Verdict.PASS, Verdict.UNEXPECTED_PASS})
_FAILED = frozenset({Verdict.FAIL, Verdict.EXPECTED_FAILURE})


@dataclass(frozen=True, slots=True)
class Margins:
    """How much worse a measured number may get before it is a regression.

    Slower means both, by the factor and by the seconds, since small times vary by more than half. `delegation` is a
    difference of shares of operators, from 0 to 1.
    """

    slower_by: float = 1.5
    slower_seconds: float = 2.0
    delegation: float = 0.0


class Change(StrEnum):
    """How a cell differs between a base run and a head run, in the order of reports."""

    NEWLY_FAILING = "newly failing"
    VANISHED = "vanished"
    NOT_RUN = "newly not run"
    STALE = "passes, still a known failure"
    FAILS_EARLIER = "fails at an earlier stage"
    CHANGED_CAUSE = "fails with another signature"
    FAILS_LATER = "fails at a later stage"
    FIXED = "fixed"
    APPEARED = "appeared"


MEANINGS = {
    Change.NEWLY_FAILING: "Passed, did not apply or was a known failure before; fails now.",
    Change.VANISHED: "Judged before, not now: no longer in the run, or no longer applicable.",
    Change.NOT_RUN: "Judged before; not run now.",
    Change.STALE: "Passes, but is listed as a known failure.",
    Change.FAILS_EARLIER: "Still fails, now at an earlier stage.",
    Change.CHANGED_CAUSE: "Still fails, with another signature or verdict.",
    Change.FAILS_LATER: "Still fails, now at a later stage.",
    Change.FIXED: "Failed before, passes now.",
    Change.APPEARED: "Judged now, not before.",
}
#: The changes that make a head run worse than its base, known failures or not.
_WORSE = frozenset({Change.NEWLY_FAILING, Change.VANISHED, Change.NOT_RUN, Change.STALE, Change.FAILS_EARLIER})


@dataclass(frozen=True, slots=True)
class Difference:
    """One cell that differs; `base` or `head` is None where a run does not have it."""

    change: Change
    base: CellRecord | None
    head: CellRecord | None

    @property
    def cell(self) -> CellRecord:
        """The cell as it is now, or was last."""
        cell = self.head or self.base
        assert cell is not None
        return cell

    @property
    def regression(self) -> bool:
        """Whether it makes the head run worse: the cell newly fails, fails differently, or is no longer judged.

        Another signature is worse, unless a crash, which has none, became a known failure. A cell that appeared, such
        as that of a new architecture, is one if it fails unexpectedly.
        """
        if self.change is Change.APPEARED:
            return self.cell.verdict not in ACCEPTABLE
        if self.change is not Change.CHANGED_CAUSE:
            return self.change in _WORSE
        assert self.base is not None
        assert self.head is not None
        other = self.base.signature is not None and self.base.signature != self.head.signature
        return other or self.head.verdict not in ACCEPTABLE


@dataclass(frozen=True, slots=True)
class DifferenceGroup:
    """Differences in one line: clauses of one architecture and variant that changed alike."""

    architecture: str
    variant: Variant
    change: Change
    regression: bool
    before: Outcome
    after: Outcome
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
class Measured:
    """A number of a variant that got worse: seconds to lower, or the share of operators that are delegated, 0 to 1.

    `operators` are the names of those that are no longer delegated.
    """

    architecture: str
    variant: Variant
    base: float
    head: float
    operators: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that differs between two runs, the number of cells judged in both, and of those that neither ran."""

    base: RunRecord
    head: RunRecord
    differences: tuple[Difference, ...]
    slower: tuple[Measured, ...]
    less_delegated: tuple[Measured, ...]
    margins: Margins
    fail_on: Level = Level.SHOULD
    compared: int = 0
    run_in_neither: int = 0

    @property
    def worse(self) -> bool:
        """Whether the gate fails: on any regression, or only on one of a clause that must hold."""
        if self.fail_on is Level.MUST:
            return any(each.cell.clause not in SHOULD for each in self.regressions)
        return bool(self.regressions or self.slower or self.less_delegated)

    @property
    def regressions(self) -> tuple[Difference, ...]:
        """The cells that are worse than they were."""
        return tuple(each for each in self.differences if each.regression)

    def of(self, change: Change) -> tuple[Difference, ...]:
        """The differences of one kind."""
        return tuple(each for each in self.differences if each.change is change)

    @property
    def groups(self) -> tuple[tuple[Change, int, tuple[DifferenceGroup, ...]], ...]:
        """Each kind of change that occurs, the number of its cells, and their groups."""
        return tuple((change, len(found), grouped(found)) for change in Change if (found := self.of(change)))


def grouped(differences: Iterable[Difference]) -> tuple[DifferenceGroup, ...]:
    """The groups of `differences`, in their order."""
    alike: dict[tuple[str, Variant, Change, bool, Outcome, Outcome, str | None], list[CellRecord]] = {}
    for difference in differences:
        before, after = (
            Outcome(cell.verdict, cell.stage) if cell else Outcome(None) for cell in (difference.base, difference.head)
        )
        cell, change = difference.cell, difference.change
        key = (cell.architecture, variant_of(cell), change, difference.regression, before, after, cell.signature)
        alike.setdefault(key, []).append(cell)
    return tuple(DifferenceGroup(*key, cells=tuple(cells)) for key, cells in alike.items())


def compare(
    base: RunRecord, head: RunRecord, margins: Margins | None = None, fail_on: Level = Level.SHOULD
) -> Comparison:
    """The differences of `head` from `base`.

    Args:
        base: The run before.
        head: The run now.
        margins: How much worse measured numbers may get.
        fail_on: The lowest level of a clause whose regression makes the head worse.

    Raises:
        ReportError: `head` is incremental to another run than `base`.
    """
    margins = margins or Margins()
    since = head.run.since
    if since and since.left_out and since.run != base.run.id:
        raise ReportError(
            "runs-differ",
            f"cannot compare: run {head.run.id} only has the cells that may have changed since run {since.run}; "
            f"compare it with that run, not with run {base.run.id}",
        )
    left_out = frozenset(head.left_out)
    before = {cell.id: cell for cell in base.cells}
    after = {cell.id: cell for cell in head.cells}
    differences = []
    for cell_id in dict.fromkeys([*after, *before]):
        change = classify(before.get(cell_id), after.get(cell_id))
        if change and not (cell_id in left_out and cell_id not in after):
            differences.append(Difference(change, before.get(cell_id), after.get(cell_id)))
    pairs = [(before[cell_id], cell) for cell_id, cell in after.items() if cell_id in before]
    return Comparison(
        base,
        head,
        tuple(sorted(differences, key=lambda difference: list(Change).index(difference.change))),
        tuple(_slower(pairs, margins)),
        tuple(_less_delegated(pairs, margins)),
        margins,
        fail_on,
        compared=sum(_judged(base) and _judged(head) for base, head in pairs),
        run_in_neither=sum(base.verdict is head.verdict is Verdict.NOT_RUN for base, head in pairs),
    )


def classify(base: CellRecord | None, head: CellRecord | None) -> Change | None:
    """The kind of difference between two verdicts on one cell; None if there is none to report."""
    if not _judged(head):
        if head is not None and head.verdict is Verdict.NOT_RUN:
            return Change.NOT_RUN if base is None or base.verdict is not Verdict.NOT_RUN else None
        lost = _judged(base) or (base is not None and head is None and base.verdict is not Verdict.NOT_RUN)
        return Change.VANISHED if lost else None
    assert head is not None
    if not _judged(base):
        applied = base is not None and base.verdict is Verdict.NOT_APPLICABLE
        return Change.NEWLY_FAILING if applied and head.verdict not in _PASSES else Change.APPEARED
    assert base is not None
    match base.verdict in _PASSES, head.verdict in _PASSES:
        case True, True:
            stale = head.verdict is Verdict.UNEXPECTED_PASS and base.verdict is Verdict.PASS
            return Change.STALE if stale else Change.FIXED if head.verdict is not base.verdict else None
        case True, False:
            return Change.NEWLY_FAILING
        case False, True:
            return Change.FIXED
    if base.verdict in ACCEPTABLE and head.verdict not in ACCEPTABLE:
        return Change.NEWLY_FAILING
    # The stage of a crash or a timeout is not reliable: it is neither earlier nor later.
    if {base.verdict, head.verdict} <= _FAILED and base.stage and head.stage and base.stage is not head.stage:
        return Change.FAILS_EARLIER if STAGES.index(head.stage) < STAGES.index(base.stage) else Change.FAILS_LATER
    if (base.stage, base.signature, base.verdict) != (head.stage, head.signature, head.verdict):
        return Change.CHANGED_CAUSE
    return None


def _judged(cell: CellRecord | None) -> bool:
    return cell is not None and cell.verdict not in {Verdict.NOT_RUN, Verdict.NOT_APPLICABLE}


def _slower(pairs: Iterable[tuple[CellRecord, CellRecord]], margins: Margins) -> Iterator[Measured]:
    """By the time of lowering alone: a cell's duration includes all that had to be built first."""
    for base, head in pairs:
        before, after = _lower_s(base), _lower_s(head)
        if before is None or after is None:
            continue
        if after > max(before * margins.slower_by, before + margins.slower_seconds):
            yield Measured(head.architecture, variant_of(head), before, after)


def _lower_s(cell: CellRecord) -> float | None:
    return cell.partition.lower_s if cell.partition else (cell.metrics or {}).get("lower_s")


def _less_delegated(pairs: Iterable[tuple[CellRecord, CellRecord]], margins: Margins) -> Iterator[Measured]:
    for base, head in pairs:
        before, after = delegated_share(base), delegated_share(head)
        if not (base.partition and head.partition):
            # An older record may count operators differently: compare the same kind of count where both have it.
            counted = _counted_share(base), _counted_share(head)
            before, after = (before, after) if None in counted else counted
        if before is not None and after is not None and after < before - margins.delegation:
            yield Measured(head.architecture, variant_of(head), before, after, _no_longer_delegated(base, head))


def delegated_share(cell: CellRecord) -> float | None:
    """The share of operators that the backend took, 0 to 1; None where the cell does not record it."""
    if cell.partition is None:
        return _counted_share(cell)
    return _share(sum(cell.partition.delegated.values()), sum(cell.partition.undelegated.values()))


def _counted_share(cell: CellRecord) -> float | None:
    metrics = cell.metrics or {}
    delegated, undelegated = metrics.get("delegated_operators"), metrics.get("undelegated_operators")
    return None if delegated is None or undelegated is None else _share(delegated, undelegated)


def _share(delegated: float, undelegated: float) -> float | None:
    return delegated / (delegated + undelegated) if delegated + undelegated > 0 else None


def _no_longer_delegated(base: CellRecord, head: CellRecord) -> tuple[str, ...]:
    """The names of operators of which more are undelegated than before."""
    if not (base.partition and head.partition):
        return ()
    before = base.partition.undelegated
    return tuple(sorted(name for name, now in head.partition.undelegated.items() if now > before.get(name, 0)))
