"""The status of variants over several runs, and since when it has not changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from conformance.core.cells import cell_called, split_row
from conformance.core.verdicts import Verdict
from conformance.records.run import CellRecord, RunRecord, record_of

from .status import ABSENT, Reached, Status, variant_status
from .variants import Columns, Variant, by_architecture, cells_of, columns
from .verdicts import QUIET, count

#: The packages whose versions reports name.
PACKAGES = ("transformers", "torch", "executorch")

#: Names and versions of `PACKAGES`; unknown ones are left out.
Versions: TypeAlias = tuple[tuple[str, str], ...]
_Ends: TypeAlias = dict[str, tuple[str, str | None, str | None] | None]


@dataclass(frozen=True, slots=True)
class Since:
    """The start of the oldest run since which nothing changed; `first` if there is no older run."""

    started: str
    first: bool


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run: its cells by architecture and variant, and the status of each."""

    run: RunRecord
    columns: Mapping[str, Columns]
    statuses: Mapping[str, Mapping[Variant, Status]]

    @property
    def versions(self) -> Versions:
        """See `versions`."""
        return versions(self.run)

    def status(self, architecture: str, variant: Variant) -> Status:
        """The status of a variant of an architecture."""
        return self.statuses.get(architecture, {}).get(variant, ABSENT)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Runs in a row in which the statuses of an architecture's variants read alike, the newest first."""

    runs: tuple[PastRun, ...]
    statuses: tuple[Status, ...]

    @property
    def newest(self) -> RunRecord:
        """Its newest run."""
        return self.runs[0].run

    @property
    def oldest(self) -> RunRecord:
        """Its oldest run."""
        return self.runs[-1].run

    @property
    def incomplete(self) -> int:
        """The number of its runs that are not complete."""
        return sum(not past.run.nothing_missing for past in self.runs)

    @property
    def versions(self) -> Versions:
        """The version of each package, or the oldest and the newest run's: `5.21.0 to 5.23.0`."""
        newest, oldest = dict(self.runs[0].versions), dict(self.runs[-1].versions)
        return tuple(
            (name, version if oldest.get(name, version) == version else f"{oldest[name]} to {version}")
            for name, version in newest.items()
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How many architectures of one run have which kind of status in a variant; variations do not count.

    `broken` and `known` have a failing `must` clause, unexpectedly or as expected. `other` do not apply, or were not
    judged or not executed.
    """

    run: RunRecord
    decoding: int
    broken: int
    known: int
    other: int

    @property
    def failing(self) -> int:
        """The broken and the known ones."""
        return self.broken + self.known

    @property
    def total(self) -> int:
        """All of them."""
        return self.decoding + self.broken + self.known + self.other


def stretches(runs: Iterable[PastRun], architecture: str, variants: Sequence[Variant]) -> tuple[Stretch, ...]:
    """The runs that have an architecture, given and returned newest first; those in a row that are alike are one."""
    found: list[Stretch] = []
    for past in runs:
        if architecture not in past.columns:
            continue
        statuses = tuple(past.status(architecture, variant) for variant in variants)
        # By what a reader sees: where a program is blocked, which violations follow from that is not said.
        if found and list(map(str, found[-1].statuses)) == list(map(str, statuses)):
            found[-1] = Stretch((*found[-1].runs, past), statuses)
        else:
            found.append(Stretch((past,), statuses))
    return tuple(found)


def progress(runs: Iterable[PastRun], variant: Variant) -> tuple[Progress, ...]:
    """The numbers of each run that has the variant, in the order of `runs`."""
    found = []
    for past in runs:
        statuses = [
            by_variant[variant]
            for name, by_variant in past.statuses.items()
            if variant in by_variant and split_row(name)[1] is None
        ]
        decoding = sum(status.reached is Reached.DECODES for status in statuses)
        broken = sum(status.failed and not status.known for status in statuses)
        known = sum(status.failed and status.known for status in statuses)
        if statuses:
            found.append(Progress(past.run, decoding, broken, known, len(statuses) - decoding - broken - known))
    return tuple(found)


def past_run(run: RunRecord, earlier: Iterable[RunRecord] = ()) -> PastRun:
    """The statuses of `run`.

    What it left out by `--since` is as in the run that it names, if that is among those `earlier`, and else not judged.
    """
    by_name = _by_name(run.cells)
    whole = _by_name((*run.cells, *_left_out(run, earlier))) if run.left_out else by_name
    statuses = {
        # Cells without a subject belong to every variant, and are one of their own only where there is no other.
        name: {variant: _status(found, whole[name], variant) for variant in [v for v in found if v.subject] or found}
        for name, found in by_name.items()
    }
    return PastRun(run, by_name, statuses)


def _by_name(cells: Iterable[CellRecord]) -> dict[str, Columns]:
    return {name: columns(own) for name, own in by_architecture(cells).items()}


def _status(found: Columns, whole: Columns, variant: Variant) -> Status:
    """The status by the cells of `whole`, with the counts of those of the run."""
    status = variant_status(whole, variant)
    return status if whole is found else dataclasses.replace(status, counts=count(cells_of(found, variant)))


def _left_out(run: RunRecord, earlier: Iterable[RunRecord]) -> Iterator[CellRecord]:
    base = run.run.since and next((each for each in earlier if each.run.id == run.run.since.run), None)
    known = {cell.id: cell for cell in base.cells} if base else {}
    own = {cell.id for cell in run.cells}
    for cell_id in run.left_out:
        if cell_id not in own:
            yield known.get(cell_id) or record_of(cell_called(cell_id), Verdict.NOT_RUN)


def versions(run: RunRecord) -> Versions:
    """The versions of a run."""
    packages = run.environment.packages
    return tuple((name, packages[name]) for name in PACKAGES if name in packages)


def since(runs: Sequence[PastRun], architecture: str, variant: Variant) -> Since | None:
    """Since when a variant has passed or failed in the same way; None if the newest run does not judge it.

    Args:
        runs: The runs, oldest first.
        architecture: The architecture.
        variant: The variant.
    """
    head = runs[-1].columns.get(architecture, {})
    now = _ends(cells_of(head, variant))
    if variant not in head or not now:
        return None
    started = runs[-1].run.run.started
    for older in reversed(runs[:-1]):
        before = older.columns.get(architecture, {})
        then = _ends(cells_of(before, variant))
        shared = now.keys() & then.keys()
        # Cells that it shares with other variants do not make it part of a run that lacks its own.
        if not shared or variant not in before:
            continue
        if any(now[cell] != then[cell] for cell in shared):
            return Since(started, first=False)
        started = older.run.run.started
    return Since(started, first=True)


def _ends(cells: Iterable[CellRecord]) -> _Ends:
    """The outcome of each judged cell; a pass and not-applicable are the same outcome here."""
    return {
        cell.id: None if cell.verdict in QUIET else (cell.verdict, cell.stage, cell.signature)
        for cell in cells
        if cell.verdict is not Verdict.NOT_RUN
    }
