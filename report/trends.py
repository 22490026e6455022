"""The status of each architecture over many runs: now, since when, and before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from conformance.core.cells import EAGER, EXPORTED
from conformance.core.verdicts import Stage, Verdict

from .database import Database
from .errors import ReportError
from .model import HOMES, QUIET, STAGES, WORST_FIRST, Status

#: Runs in a trend, the newest at the right.
POINTS = 24
_BARS = "▁▂▃▄▅▆▇█"
_UNJUDGED = "·"


@dataclass(frozen=True, slots=True)
class Trend:
    """One architecture and subject over all runs that have it.

    `shares` are the shares of judged cells that pass or are known failures, 0 to 1, oldest run first; None where
    nothing was judged.
    """

    architecture: str
    subject: str
    runs: int
    status: Status
    since: datetime
    changes: int
    last: datetime
    accepted: int
    judged: int
    shares: tuple[float | None, ...]

    @property
    def bars(self) -> str:
        """The shares as a bar chart of one line."""
        return "".join(map(_bar, self.shares))


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """The status of an architecture in one run."""

    run: str
    started: datetime
    commit: str | None
    versions: tuple[tuple[str, str], ...]
    subject: str
    status: Status
    accepted: int
    judged: int


def prepare(database: Database) -> None:
    """Make the tables that `trends` and `history_points` query, in one pass over the files.

    Raises:
        ReportError: A record has an unknown verdict or stage.
    """
    verdicts, stages = _list(WORST_FIRST), _list(STAGES)
    unjudged = _list((Verdict.NOT_RUN, Verdict.NOT_APPLICABLE))
    accepted = _list((Verdict.PASS, Verdict.EXPECTED_FAILURE))
    # As in `report.model.status_of`: cells that pass and were not run end at the last stage that was done.
    held, whole = WORST_FIRST.index(Verdict.PASS), len(STAGES)
    subject = "coalesce(subject, '')"
    done = f"verdict = '{Verdict.PASS}' AND {subject} <> '' AND backend"
    runs = f"coalesce(stage, {_map(HOMES)}[split_part(clause, '-', 1)], '{Stage.EXECUTE}') = '{Stage.EXECUTE}'"
    short = " ".join(
        f"WHEN bool_or({own}) THEN if(bool_or({own} AND {runs}), {whole}, {STAGES.index(end)})"
        for own, end in (
            (f"{done} NOT IN ('{EAGER}', '{EXPORTED}')", Stage.LOWER),
            (f"{done} = '{EXPORTED}'", Stage.EXPORT),
        )
    )
    database.rows(f"""
        CREATE TEMP TABLE counted AS
        SELECT * REPLACE (if(worst // 10 = {held}, {10 * held} + ends, worst) AS worst) FROM (
            SELECT run, any_value(file) AS file, architecture, {subject} AS subject,
                   min(10 * (list_position({verdicts}, verdict) - 1)
                       + coalesce(list_position({stages}, stage) - 1, {whole})) AS worst,
                   CASE {short} ELSE {whole} END AS ends,
                   count(*) FILTER (list_contains({accepted}, verdict)) AS accepted,
                   count(*) FILTER (NOT list_contains({unjudged}, verdict)) AS judged,
                   bool_and(coalesce(list_contains({verdicts}, verdict), false)
                            AND (stage IS NULL OR list_contains({stages}, stage))
                            AND architecture IS NOT NULL) AS sound
            FROM {database.cells("architecture", "subject", "backend", "clause", "verdict", "stage")}
            GROUP BY run, architecture, {subject})""")
    _, unsound = database.rows("SELECT min(file) FROM counted WHERE NOT sound")
    if unsound[0][0] is not None:
        raise ReportError(f"{unsound[0][0]} is not a run record; `conformance report validate` names the error")
    # Cells of the fixture belong to every subject: they can make it fail but not pass.
    assert set(WORST_FIRST[held:]) == QUIET
    database.rows(f"""
        CREATE TEMP TABLE judged AS
        SELECT own.run, started, row_number() OVER (ORDER BY started, own.run) AS run_order, own.architecture,
               own.subject,
               CASE WHEN fixture.worst < {10 * held} THEN least(own.worst, fixture.worst) ELSE own.worst END AS worst,
               own.accepted + coalesce(fixture.accepted, 0) AS accepted,
               own.judged + coalesce(fixture.judged, 0) AS judged
        FROM counted AS own JOIN runs ON runs.run = own.run
        LEFT JOIN counted AS fixture
            ON own.subject <> '' AND fixture.subject = '' AND fixture.run = own.run
            AND fixture.architecture = own.architecture
        WHERE own.subject <> '' OR NOT EXISTS (
            FROM counted AS other WHERE other.run = own.run AND other.architecture = own.architecture
            AND other.subject <> '')""")


def trends(database: Database) -> tuple[Trend, ...]:
    """Every architecture of any run, problems first. Call `prepare` first."""
    _, rows = database.rows(f"""
        WITH flagged AS (
            SELECT *, worst IS DISTINCT FROM lag(worst) OVER (PARTITION BY architecture, subject ORDER BY run_order)
                   AS changed
            FROM judged)
        SELECT architecture, subject, count(*), arg_max(worst, run_order), arg_max(started, run_order) FILTER (changed),
               count(*) FILTER (changed) - 1, max(started), arg_max(accepted, run_order), arg_max(judged, run_order),
               list(CASE WHEN judged > 0 THEN accepted / judged END ORDER BY run_order)[-{POINTS}:]
        FROM flagged GROUP BY architecture, subject""")
    found = [_trend(*cast("tuple[Any, ...]", row)) for row in rows]
    return tuple(sorted(found, key=lambda trend: (trend.status.rank, trend.architecture, trend.subject)))


def history_points(database: Database, architecture: str) -> tuple[HistoryPoint, ...]:
    """One architecture in every run that has it, newest first. Call `prepare` first."""
    _, rows = database.rows(f"""
        SELECT judged.run, judged.started, commit, transformers, torch, executorch, subject, worst, accepted, judged
        FROM judged JOIN runs ON runs.run = judged.run WHERE architecture = {_text(architecture)}
        ORDER BY run_order DESC, subject""")
    return tuple(_point(*cast("tuple[Any, ...]", row)) for row in rows)


def _trend(
    architecture: str,
    subject: str,
    runs: int,
    worst: int,
    since: datetime,
    changes: int,
    last: datetime,
    accepted: int,
    judged: int,
    shares: list[float | None],
) -> Trend:
    status = _status_from(worst)
    return Trend(architecture, subject, runs, status, since, changes, last, accepted, judged, tuple(shares))


def _point(
    run: str,
    started: datetime,
    commit: str | None,
    transformers: str | None,
    torch: str | None,
    executorch: str | None,
    subject: str,
    worst: int,
    accepted: int,
    judged: int,
) -> HistoryPoint:
    versions = (("transformers", transformers), ("torch", torch), ("executorch", executorch))
    known = tuple((name, version) for name, version in versions if version)
    return HistoryPoint(run, started, commit, known, subject, _status_from(worst), accepted, judged)


def _status_from(worst: int) -> Status:
    verdict, stage = divmod(worst, 10)
    return Status(WORST_FIRST[verdict], STAGES[stage] if stage < len(STAGES) else None)


def _bar(share: float | None) -> str:
    """A full bar only for a share of 1: one bad cell of a hundred must show."""
    if share is None:
        return _UNJUDGED
    return _BARS[-1] if share >= 1 else _BARS[min(int(share * len(_BARS)), len(_BARS) - 2)]


def _list(texts: Iterable[str]) -> str:
    return "[" + ", ".join(map(_text, texts)) + "]"


def _map(texts: Mapping[str, str]) -> str:
    return "MAP {" + ", ".join(f"{_text(key)}: {_text(value)}" for key, value in texts.items()) + "}"


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
