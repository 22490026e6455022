"""Badges for shields.io's endpoint, in the format of https://shields.io/badges/endpoint-badge."""

from __future__ import annotations

import json

from conformance.core.text import sanitize
from conformance.core.verdicts import Verdict

from .model import Status

_COLOURS = {
    None: "lightgrey",
    Verdict.PASS: "brightgreen",
    Verdict.EXPECTED_FAILURE: "yellow",
    Verdict.NOT_APPLICABLE: "lightgrey",
    Verdict.NOT_RUN: "lightgrey",
}


def badge(label: str, status: Status) -> str:
    """The badge of a status."""
    return _endpoint(label, status.label, "blue" if status.compiled_only else _COLOURS.get(status.verdict, "red"))


def overall(label: str, passing: int, known: int, judged: int, *, complete: bool, unexpected: bool) -> str:
    """The badge of a whole run, from numbers of cells; a run that is not complete never looks like a good one."""
    if not complete:
        return _endpoint(label, "incomplete run", "lightgrey")
    message = f"{passing} of {judged} pass" + (f", {known} known failures" if known else "")
    return _endpoint(label, message, "red" if unexpected else "yellow" if known else "brightgreen")


def _endpoint(label: str, message: str, colour: str) -> str:
    plain = {"schemaVersion": 1, "label": sanitize(label), "message": sanitize(message), "color": colour}
    return json.dumps(plain, indent=1) + "\n"
