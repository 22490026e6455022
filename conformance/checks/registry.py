"""Which check tests which clause."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module

from conformance import checks as package
from conformance.checks.case import Case


def checks() -> dict[str, Callable[[Case], None]]:
    """The check of each checked clause, by the clause's id: the functions that pytest collects."""
    by_clause: dict[str, Callable[[Case], None]] = {}
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.rpartition(".")[2].startswith("test_"):
            continue
        for value in vars(import_module(module.name)).values():
            for mark in getattr(value, "pytestmark", []):
                if mark.name == "clause":
                    by_clause[mark.args[0]] = value
    return by_clause
