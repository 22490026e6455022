"""Badges: what shields.io's endpoint reads, as documented at https://shields.io/badges/endpoint-badge."""

from __future__ import annotations

import json

from conformance.core.text import shown
from conformance.core.verdicts import Verdict
from report.model import Standing

_COLOURS = {
    None: "lightgrey",
    Verdict.PASS: "brightgreen",
    Verdict.EXPECTED_FAILURE: "yellow",
    Verdict.NOT_APPLICABLE: "lightgrey",
    Verdict.NOT_RUN: "lightgrey",
}


def badge(label: str, standing: Standing) -> str:
    """The badge that says what `standing` is."""
    return _endpoint(label, standing.label, "blue" if standing.short else _COLOURS.get(standing.verdict, "red"))


def overall(label: str, holding: int, known: int, judged: int, *, complete: bool, unlisted: bool) -> str:
    """The badge of a whole run; one that is not complete never looks like a good one."""
    if not complete:
        return _endpoint(label, "incomplete run", "lightgrey")
    message = f"{holding} of {judged} hold" + (f", {known} known failures" if known else "")
    return _endpoint(label, message, "red" if unlisted else "yellow" if known else "brightgreen")


def _endpoint(label: str, message: str, colour: str) -> str:
    plain = {"schemaVersion": 1, "label": shown(label), "message": shown(message), "color": colour}
    return json.dumps(plain, indent=1) + "\n"
