"""The history of records or of a database as text: a table or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from conformance.core.suggest import unknown
from conformance.core.text import plural

from .errors import ReportError
from .loading import DATABASE_SUFFIX, load_each, record_files
from .names import commit
from .terminal import as_json, table
from .trends import HistoryPoint, Trend, history_points, run_order, trends

_FIELDS = (
    "architecture",
    "subject",
    "backend",
    "mode",
    "now",
    "since",
    "changes",
    "accepted",
    "judged",
    "runs",
    "last",
    "shares",
)


def history(paths: Sequence[Path], architecture: str | None, form: str) -> str:
    """The status of every architecture over many runs, or of `architecture` run by run.

    Args:
        paths: Records and folders with records, or one database.
        architecture: The only architecture to show.
        form: `table` or `json`.

    Raises:
        ReportError: A path cannot be read, or no run has `architecture`.
    """
    if architecture is None:
        return _overview(trends(_points(paths)), form)
    points = list(_points(paths))
    own = [point for point in points if point.architecture == architecture]
    if not own:
        raise ReportError(
            "unknown-name", unknown("architecture", architecture, {point.architecture for point in points})
        )
    by_variant = sorted(own, key=lambda point: point.variant)
    return _detail(sorted(by_variant, key=run_order, reverse=True), form)


def _points(paths: Sequence[Path]) -> Iterable[HistoryPoint]:
    databases = [path for path in paths if path.suffix == DATABASE_SUFFIX]
    if not databases:
        return (point for _, run in load_each(record_files(paths)) for point in history_points(run))
    if len(paths) > 1:
        raise ReportError(
            "conflicting-options", f"{databases[0]} is a database; pass only the database, or only records"
        )
    from .database import read_points  # only this needs DuckDB

    return read_points(databases[0])


def _overview(found: Sequence[Trend], form: str) -> str:
    """A line for each variant of each architecture, problems first."""
    if form == "json":
        return as_json(_FIELDS, map(_data, found))
    heads = ("architecture", "variant", "now", "since", "changes", "accepted", "trend, newest at the right", "runs")
    newest = max((each.last.started for each in found), default=None)
    rows = [
        (
            each.last.architecture,
            str(each.last.variant),
            str(each.last.status)
            + ("" if each.last.started == newest else f", last seen {each.last.started:%Y-%m-%d}"),
            f"{each.since:%Y-%m-%d}",
            each.changes,
            f"{each.last.accepted} of {each.last.judged}",
            each.bars,
            len(each.points),
        )
        for each in found
    ]
    names = {each.last.architecture for each in found}
    return f"{plural(len(names), 'architecture')}, problems first\n\n{table(heads, rows)}"


def _detail(points: Sequence[HistoryPoint], form: str) -> str:
    """A line for each run of each variant of one architecture."""
    heads = ("started", "run", "commit", "versions", "variant", "status", "accepted", "judged")
    rows = [
        (
            f"{each.started:%Y-%m-%d %H:%M}",
            each.run,
            each.commit if form == "json" else str(commit(each.commit) or ""),
            ", ".join(f"{name} {version}" for name, version in each.versions),
            str(each.variant),
            each.status.label if form == "json" else str(each.status),
            each.accepted,
            each.judged,
        )
        for each in points
    ]
    return as_json(heads, rows) if form == "json" else table(heads, rows)


def _data(each: Trend) -> tuple[object, ...]:
    last = each.last
    return (
        *(last.architecture, last.variant.subject, last.variant.backend, last.variant.mode, last.status.label),
        *(each.since.isoformat(), each.changes, last.accepted, last.judged, len(each.points)),
        *(last.started.isoformat(), list(each.shares)),
    )
