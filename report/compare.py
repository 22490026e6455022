"""Two runs, cell by cell: what a reader of a change has to know, and what a gate decides by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from conformance.records import CellRecord, RunRecord
from conformance.verdicts import ACCEPTABLE, Verdict
from report.model import Variant, variant_of

_HOLDS = frozenset({Verdict.PASS, Verdict.UNEXPECTED_PASS})
#: Slower means both, since small times vary by more than half.
SLOWER_BY, SLOWER_SECONDS = 1.5, 2.0


class Change(StrEnum):
    """How a cell differs between a base run and a head run, in the order a reader wants them."""

    NEWLY_FAILING = "newly failing"
    VANISHED = "vanished"
    STALE = "passes, still listed"
    CHANGED_STAGE = "changed stage"
    CHANGED_CAUSE = "changed cause"
    FIXED = "fixed"
    APPEARED = "appeared"


MEANINGS = {
    Change.NEWLY_FAILING: "held, did not apply, or was a listed failure; now it fails",
    Change.VANISHED: "was judged, and now is not: no longer in the run, not run, or said not to apply",
    Change.STALE: "held before and holds now, but is listed as failing",
    Change.CHANGED_STAGE: "failed and fails, at another stage",
    Change.CHANGED_CAUSE: "failed and fails, with another signature or verdict",
    Change.FIXED: "failed, and now holds",
    Change.APPEARED: "is judged now, and was not before",
}


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
        """Whether the head run is worse for it: something fails that nobody listed, or is no longer looked at."""
        unlisted = self.head is not None and self.head.verdict not in ACCEPTABLE
        return self.change in {Change.NEWLY_FAILING, Change.VANISHED} or (unlisted and self.change is not Change.FIXED)


@dataclass(frozen=True, slots=True)
class Measured:
    """A number of a variant that got worse."""

    architecture: str
    variant: Variant
    base: float
    head: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that differs between two runs."""

    base: RunRecord
    head: RunRecord
    differences: tuple[Difference, ...]
    slower: tuple[Measured, ...]
    less_delegated: tuple[Measured, ...]

    @property
    def regressions(self) -> tuple[Difference, ...]:
        """What a gate must not let pass."""
        return tuple(each for each in self.differences if each.regression)

    def of(self, change: Change) -> tuple[Difference, ...]:
        """The differences of one kind."""
        return tuple(each for each in self.differences if each.change is change)


def compare(base: RunRecord, head: RunRecord) -> Comparison:
    """What `head` does otherwise than `base`."""
    before = {cell.id: cell for cell in base.cells}
    after = {cell.id: cell for cell in head.cells}
    differences = []
    for cell_id in dict.fromkeys([*after, *before]):
        change = classify(before.get(cell_id), after.get(cell_id))
        if change:
            differences.append(Difference(change, before.get(cell_id), after.get(cell_id)))
    pairs = [(before[cell_id], cell) for cell_id, cell in after.items() if cell_id in before]
    return Comparison(
        base,
        head,
        tuple(sorted(differences, key=lambda each: list(Change).index(each.change))),
        tuple(_slower(pairs)),
        tuple(_less_delegated(pairs)),
    )


def classify(base: CellRecord | None, head: CellRecord | None) -> Change | None:
    """The kind of difference between two verdicts on one cell; None if a reader need not know."""
    if not _judged(head):
        return Change.VANISHED if _judged(base) or (base and not head and base.verdict is not Verdict.NOT_RUN) else None
    assert head is not None
    if not _judged(base):
        applied = base is not None and base.verdict is Verdict.NOT_APPLICABLE
        return Change.NEWLY_FAILING if applied and head.verdict not in _HOLDS else Change.APPEARED
    assert base is not None
    match base.verdict in _HOLDS, head.verdict in _HOLDS:
        case True, True:
            stale = head.verdict is Verdict.UNEXPECTED_PASS and base.verdict is Verdict.PASS
            return Change.STALE if stale else Change.FIXED if head.verdict is not base.verdict else None
        case True, False:
            return Change.NEWLY_FAILING
        case False, True:
            return Change.FIXED
    if base.verdict in ACCEPTABLE and head.verdict not in ACCEPTABLE:
        return Change.NEWLY_FAILING
    if base.stage is not head.stage:
        return Change.CHANGED_STAGE
    if (base.signature, base.verdict) != (head.signature, head.verdict):
        return Change.CHANGED_CAUSE
    return None


def _judged(cell: CellRecord | None) -> bool:
    return cell is not None and cell.verdict not in {Verdict.NOT_RUN, Verdict.NOT_APPLICABLE}


def _slower(pairs: Iterable[tuple[CellRecord, CellRecord]]) -> Iterator[Measured]:
    """Lowering alone is timed by itself; a cell's duration includes whatever was not built yet."""
    for base, head in pairs:
        before, after = (base.metrics or {}).get("lower_s"), (head.metrics or {}).get("lower_s")
        if before is not None and after is not None and after > max(before * SLOWER_BY, before + SLOWER_SECONDS):
            yield Measured(head.architecture, variant_of(head), before, after)


def _less_delegated(pairs: Iterable[tuple[CellRecord, CellRecord]]) -> Iterator[Measured]:
    for base, head in pairs:
        before, after = delegated_share(base), delegated_share(head)
        if before is not None and after is not None and after < before:
            yield Measured(head.architecture, variant_of(head), before, after)


def delegated_share(cell: CellRecord) -> float | None:
    """The share of operators that the backend took, where the cell measured it."""
    metrics = cell.metrics or {}
    taken, left = metrics.get("delegated_operators"), metrics.get("undelegated_operators")
    return None if taken is None or left is None or taken + left <= 0 else taken / (taken + left)
