"""Badges for shields.io's endpoint, in the format of https://shields.io/badges/endpoint-badge."""

from __future__ import annotations

import json

from conformance.core.text import sanitize

from .analysis.report import Report
from .analysis.status import Reached, Status

_COLOURS = {
    Reached.DECODES.value: "brightgreen",
    Reached.COMPILED_ONLY.value: "blue",
    "known": "yellow",
    "unexpected": "red",
}
_UNKNOWN = "lightgrey"
_GOOD = frozenset({Reached.DECODES, Reached.NOT_APPLICABLE})


def badge(label: str, status: Status) -> str:
    """The badge of a status."""
    colour = _COLOURS.get(status.kind if status.failed else status.reached.value, _UNKNOWN)
    return _endpoint(label, status.label, colour)


def overall(report: Report) -> str:
    """The badge of a whole run: its first headline. A run that is not complete never looks like a good one.

    Neither does one with `--since`: its numbers are those of the cells that it ran again.
    """
    label = "ExecuTorch conformance"
    if not report.run.run.complete:
        return _endpoint(label, "incomplete run", _UNKNOWN)
    if not report.headlines:
        return _endpoint(label, Reached.NOT_JUDGED.value, _UNKNOWN)
    headline = report.headlines[0]
    whole = all(tally.reached in _GOOD for tally in headline.tallies)
    colour = "red" if report.unexpected else "brightgreen" if whole and headline.decoding else "yellow"
    return _endpoint(label, f"{headline.text} on {report.short(headline.variant)}", colour)


def _endpoint(label: str, message: str, colour: str) -> str:
    plain = {"schemaVersion": 1, "label": sanitize(label), "message": sanitize(message), "color": colour}
    return json.dumps(plain, indent=1) + "\n"
