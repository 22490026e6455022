"""Which check tests which clause."""

from __future__ import annotations

from collections.abc import Callable

from conformance.checks import (
    test_export,
    test_exporting,
    test_live,
    test_lowering,
    test_misuse,
    test_parity,
    test_sensitivity,
    test_sessions,
)
from conformance.checks.case import Case

_MODULES = (
    test_export,
    test_exporting,
    test_live,
    test_lowering,
    test_misuse,
    test_parity,
    test_sensitivity,
    test_sessions,
)


def checks() -> dict[str, Callable[[Case], None]]:
    """Each checked clause's check, by the clause's id."""
    found: dict[str, Callable[[Case], None]] = {}
    for module in _MODULES:
        for value in vars(module).values():
            for mark in getattr(value, "pytestmark", []):
                if mark.name == "clause":
                    found[mark.args[0]] = value
    return found
