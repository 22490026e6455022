"""The message for a package that is not installed. Imports the standard library only: any package may be missing."""

from __future__ import annotations

from pathlib import Path

from conformance.core.paths import INSTALLED, ROOT

_PROJECT = "executorch-conformance"
#: The extra that installs a package; one without is installed with the project itself.
_EXTRAS = {
    "duckdb": "report",
    "executorch": "run",
    "hypothesis": "run",
    "pytest": "run",
    "torch": "run",
    "transformers": "run",
    "xdist": "run",
}


def missing(command: str, package: str) -> str:
    """`COMMAND needs PACKAGE, which is not installed: pip install ...`."""
    extra = f"[{_EXTRAS[package]}]" if package in _EXTRAS else ""
    if INSTALLED:
        return f"{command} needs {package}, which is not installed: pip install '{_PROJECT}{extra}'"
    project = "." if Path.cwd() == ROOT else ROOT
    return (
        f"{command} needs {package}, which is not installed: pip install '{project}{extra}', or `tox -e conformance`, "
        "whose environment has it all"
    )
