"""Trends as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from conformance.core.text import plural

from .names import commit
from .terminal import as_json, table
from .trends import HistoryPoint, Trend

Format = Literal["table", "json"]
_FIELDS = ("architecture", "subject", "now", "since", "changes", "accepted", "judged", "runs", "last", "shares")


def overview(trends: Sequence[Trend], form: Format) -> str:
    """A line for each architecture and subject, problems first."""
    if form == "json":
        return as_json(_FIELDS, [_data(each) for each in trends])
    heads = ("architecture", "subject", "now", "since", "changes", "accepted", "trend, newest at the right", "runs")
    newest = max((each.last for each in trends), default=None)
    rows = [
        (
            each.architecture,
            each.subject or "fixture",
            f"{each.status.glyph} {each.status.label}"
            + ("" if each.last == newest else f", last seen {each.last:%Y-%m-%d}"),
            f"{each.since:%Y-%m-%d}",
            each.changes,
            f"{each.accepted} of {each.judged}",
            each.bars,
            each.runs,
        )
        for each in trends
    ]
    names = {each.architecture for each in trends}
    return f"{plural(len(names), 'architecture')}, problems first\n\n{table(heads, rows)}"


def detail(points: Sequence[HistoryPoint], form: Format) -> str:
    """A line for each run of one architecture."""
    heads = ("started", "run", "commit", "versions", "subject", "state", "accepted", "judged")
    rows = [
        (
            f"{each.started:%Y-%m-%d %H:%M}",
            each.run,
            each.commit if form == "json" else str(commit(each.commit) or ""),
            ", ".join(f"{name} {version}" for name, version in each.versions),
            each.subject or "fixture",
            f"{each.status.glyph} {each.status.label}",
            each.accepted,
            each.judged,
        )
        for each in points
    ]
    return as_json(heads, rows) if form == "json" else table(heads, rows)


def _data(each: Trend) -> tuple[object, ...]:
    return (
        *(each.architecture, each.subject, each.status.label, each.since.isoformat(), each.changes, each.accepted),
        *(each.judged, each.runs, each.last.isoformat(), list(each.shares)),
    )
