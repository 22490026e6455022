"""The status of each architecture's variants over many runs: now, since when, and before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from conformance.core.verdicts import Verdict
from conformance.records.run import RunRecord

from .analysis.history import past_run
from .analysis.status import Status
from .analysis.variants import Variant
from .loading import when

#: Runs in a trend, the newest at the right.
POINTS = 24
_BARS = "▁▂▃▄▅▆▇█"
_UNJUDGED = "·"
_ACCEPTED = frozenset({Verdict.PASS, Verdict.EXPECTED_FAILURE})
_NOT_JUDGED = frozenset({Verdict.NOT_RUN, Verdict.NOT_APPLICABLE})


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """The status of one variant of an architecture in one run."""

    run: str
    started: datetime
    commit: str | None
    versions: tuple[tuple[str, str], ...]
    architecture: str
    variant: Variant
    status: Status

    @property
    def judged(self) -> int:
        """The number of cells that the status depends on and that applied and were run."""
        return sum(number for verdict, number in self.status.counts if verdict not in _NOT_JUDGED)

    @property
    def accepted(self) -> int:
        """The number of these that pass or are known failures."""
        return sum(number for verdict, number in self.status.counts if verdict in _ACCEPTED)

    @property
    def share(self) -> float | None:
        """The share of accepted cells, 0 to 1; None if none was judged."""
        return self.accepted / self.judged if self.judged else None


@dataclass(frozen=True, slots=True)
class Trend:
    """One variant of an architecture over all runs that have it, oldest first.

    `since` is the start of the run that the status has been the same since; `changes` counts how often it changed.
    """

    points: tuple[HistoryPoint, ...]
    since: datetime
    changes: int

    @property
    def last(self) -> HistoryPoint:
        """The newest run's."""
        return self.points[-1]

    @property
    def shares(self) -> tuple[float | None, ...]:
        """The shares of accepted cells in the newest runs, oldest first."""
        return tuple(point.share for point in self.points[-POINTS:])

    @property
    def bars(self) -> str:
        """The shares as a bar chart of one line."""
        return "".join(map(_bar, self.shares))


def history_points(run: RunRecord) -> Iterator[HistoryPoint]:
    """The status of each variant of each architecture in `run`."""
    started, past = when(run.run.started), past_run(run)
    for name, statuses in past.statuses.items():
        for variant, status in statuses.items():
            yield HistoryPoint(run.run.id, started, run.run.commit, past.versions, name, variant, status)


def run_order(point: HistoryPoint) -> tuple[datetime, str]:
    """Sorts points by run, the oldest first."""
    return point.started, point.run


def trends(points: Iterable[HistoryPoint]) -> tuple[Trend, ...]:
    """The trend of every variant of every architecture, problems first."""
    alike: dict[tuple[str, Variant], list[HistoryPoint]] = defaultdict(list)
    for point in sorted(points, key=run_order):
        alike[point.architecture, point.variant].append(point)
    found = [_trend(each) for each in alike.values()]
    return tuple(sorted(found, key=lambda each: (each.last.status.rank, each.last.architecture, each.last.variant)))


def _trend(points: Sequence[HistoryPoint]) -> Trend:
    words = [point.status.label for point in points]
    changed = [point.started for point, now, before in zip(points[1:], words[1:], words, strict=False) if now != before]
    return Trend(tuple(points), changed[-1] if changed else points[0].started, len(changed))


def _bar(share: float | None) -> str:
    """A full bar only for a share of 1: one bad cell of a hundred must show."""
    if share is None:
        return _UNJUDGED
    return _BARS[-1] if share >= 1 else _BARS[min(int(share * len(_BARS)), len(_BARS) - 2)]
