"""The message for a package that is not installed. Imports the standard library only: any package may be missing."""

from __future__ import annotations

import json
from importlib import metadata
from urllib.parse import unquote, urlparse

from conformance.core.commands import install_command
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
    """`COMMAND needs PACKAGE, which is not installed:`, and the command that installs it."""
    extra = f"[{_EXTRAS[package]}]" if package in _EXTRAS else ""
    problem = f"{command} needs {package}, which is not installed: {install_command(_project(extra))}"
    return problem if INSTALLED else f"{problem}, or `tox -e conformance`, whose environment has it all"


def _project(extra: str) -> str:
    """This project, from where it was installed, as an argument for pip."""
    if not INSTALLED:
        return f"{ROOT}{extra}"
    try:
        origin = json.loads(metadata.distribution(_PROJECT).read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:  # such as an unpacked wheel
        origin = {}
    url = urlparse(origin.get("url", ""))
    if url.scheme == "file":
        return f"{unquote(url.path)}{extra}"
    vcs = origin.get("vcs_info")
    if vcs:
        return f"{_PROJECT}{extra} @ {vcs['vcs']}+{origin['url']}@{vcs['commit_id']}"
    return f"{_PROJECT}{extra}"
