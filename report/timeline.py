"""Since when something is as it is, and what it was before, over several runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from conformance.core.verdicts import Verdict
from conformance.records.run import CellRecord, RunRecord
from report.model import QUIET, Columns, Standing, Variant, by_architecture, cells_of, columns, variant_standing

#: What a verdict depends on, and a reader asks for: "with which versions?"
PACKAGES = ("transformers", "torch", "executorch")

_Ends = dict[str, tuple[str, str | None, str | None] | None]


@dataclass(frozen=True, slots=True)
class Since:
    """The start of the oldest run from which on nothing changed; `first` if no run given is older than that."""

    started: str
    first: bool


@dataclass(frozen=True, slots=True)
class History:
    """All runs given, oldest first, with their cells by architecture and variant."""

    runs: tuple[RunRecord, ...]
    columns: tuple[dict[str, Columns], ...]

    @property
    def head(self) -> RunRecord:
        """The newest run, which the site is about."""
        return self.runs[-1]

    def of(self, run: int, architecture: str) -> Columns:
        """The cells of an architecture in the run with this index."""
        return self.columns[run].get(architecture, {})

    def standing(self, run: int, architecture: str, variant: Variant) -> Standing:
        """What a variant came to in the run with this index."""
        return variant_standing(self.of(run, architecture), variant)

    def since(self, architecture: str, variant: Variant) -> Since | None:
        """Since when a variant has failed as it fails, or held; None if the newest run does not judge it."""
        now = _ends(cells_of(self.of(-1, architecture), variant))
        if variant not in self.of(-1, architecture) or not now:
            return None
        started, changed = self.head.run.started, False
        for index in range(len(self.runs) - 2, -1, -1):
            then = _ends(cells_of(self.of(index, architecture), variant))
            shared = now.keys() & then.keys()
            # What a variant shares with others says nothing of when it was not there itself.
            if not shared or variant not in self.of(index, architecture):
                continue
            if any(now[cell] != then[cell] for cell in shared):
                changed = True
                break
            started = self.runs[index].run.started
        return Since(started, not changed)


def history(runs: Sequence[RunRecord]) -> History:
    """The history that `runs`, oldest first, tell."""
    return History(
        tuple(runs),
        tuple({name: columns(cells) for name, cells in by_architecture(run.cells).items()} for run in runs),
    )


def versions(run: RunRecord) -> tuple[tuple[str, str], ...]:
    """The versions that a column of the compatibility page stands for."""
    packages = run.environment.packages
    return tuple((name, packages[name]) for name in PACKAGES if name in packages)


def _ends(cells: Iterable[CellRecord]) -> _Ends:
    """How each judged cell ended; whether it holds or does not apply makes no difference to who asks since when."""
    return {
        cell.id: None if cell.verdict in QUIET else (cell.verdict, cell.stage, cell.signature)
        for cell in cells
        if cell.verdict is not Verdict.NOT_RUN
    }
