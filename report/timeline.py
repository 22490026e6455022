"""The status of variants over several runs, and since when it has not changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from conformance.core.verdicts import Verdict
from conformance.records.run import CellRecord, RunRecord

from .model import QUIET, Columns, Status, Variant, by_architecture, cells_of, columns, variant_status

#: The packages whose versions reports name.
PACKAGES = ("transformers", "torch", "executorch")

_Ends = dict[str, tuple[str, str | None, str | None] | None]


@dataclass(frozen=True, slots=True)
class Since:
    """The start of the oldest run since which nothing changed; `first` if there is no older run."""

    started: str
    first: bool


@dataclass(frozen=True, slots=True)
class History:
    """Runs, oldest first, with their cells by architecture and variant."""

    runs: tuple[RunRecord, ...]
    columns: tuple[dict[str, Columns], ...]

    @property
    def head(self) -> RunRecord:
        """The newest run, which the site is about."""
        return self.runs[-1]

    def of(self, run: int, architecture: str) -> Columns:
        """The cells of an architecture in the run with this index."""
        return self.columns[run].get(architecture, {})

    def status(self, run: int, architecture: str, variant: Variant) -> Status:
        """The status of a variant in the run with this index."""
        return variant_status(self.of(run, architecture), variant)

    def since(self, architecture: str, variant: Variant) -> Since | None:
        """Since when a variant has passed or failed in the same way; None if the newest run does not judge it."""
        now = _ends(cells_of(self.of(-1, architecture), variant))
        if variant not in self.of(-1, architecture) or not now:
            return None
        started, changed = self.head.run.started, False
        for index in range(len(self.runs) - 2, -1, -1):
            then = _ends(cells_of(self.of(index, architecture), variant))
            shared = now.keys() & then.keys()
            # Cells that it shares with other variants do not make it part of a run that lacks its own.
            if not shared or variant not in self.of(index, architecture):
                continue
            if any(now[cell] != then[cell] for cell in shared):
                changed = True
                break
            started = self.runs[index].run.started
        return Since(started, not changed)


def history(runs: Sequence[RunRecord]) -> History:
    """The history of `runs`, oldest first."""
    return History(
        tuple(runs),
        tuple({name: columns(cells) for name, cells in by_architecture(run.cells).items()} for run in runs),
    )


def versions(run: RunRecord) -> tuple[tuple[str, str], ...]:
    """The names and versions of `PACKAGES` in a run; unknown ones are left out."""
    packages = run.environment.packages
    return tuple((name, packages[name]) for name in PACKAGES if name in packages)


def _ends(cells: Iterable[CellRecord]) -> _Ends:
    """The outcome of each judged cell; a pass and not-applicable are the same outcome here."""
    return {
        cell.id: None if cell.verdict in QUIET else (cell.verdict, cell.stage, cell.signature)
        for cell in cells
        if cell.verdict is not Verdict.NOT_RUN
    }
