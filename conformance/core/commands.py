"""The commands that messages name: each runs as printed, from the user's current folder."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from conformance.core.paths import ROOT

#: Set by the environments of tox.ini that run the suite: the command before a run's options, such as
#: ``tox -e conformance --``.
RUN_COMMAND = "CONFORMANCE_RUN_COMMAND"
#: Set by `conformance run` for pytest, which it starts: its own arguments as typed, quoted for a shell.
RUN_ARGUMENTS = "CONFORMANCE_RUN_ARGUMENTS"
#: What `tox -e upstream` installs. Other environments do not pass them on, so a run there does not see them.
_SPECS = ("TRANSFORMERS_SPEC", "EXECUTORCH_SPEC", "TORCH_SPEC")
#: A user name or token in an address, which records and comments must not show. That of ssh, such as git@, may be seen.
_CREDENTIALS = re.compile(r"(?<=https://)[^/@]*@")
_SCRIPT = "conformance"
_RUN = f"{_SCRIPT} run"


def command(*arguments: str) -> str:
    """`conformance ARGUMENTS` for a POSIX shell in the current folder.

    If the shell would not find this environment's script `conformance`, the path of its Python is used instead.
    """
    return shlex.join([*_program(), *arguments])


def run_command(*options: str) -> str:
    """The command that runs the suite with `options`."""
    return _tox_command(options) or command("run", *options)


def install_command(*arguments: str) -> str:
    """The command that installs packages into this environment, in the versions that this project pins."""
    program = _program()
    pip = ["pip"] if program == [_SCRIPT] else [program[0], "-m", "pip"]
    install = [*pip, "install"]
    if importlib.util.find_spec("pip") is None:  # as in an environment of uv
        install = ["uv", "pip", "install", "--python", _from_here(Path(sys.executable))]
    return shlex.join([*install, "-c", _from_here(ROOT / "constraints.txt"), *arguments])


def recorded_run_command(*options: str) -> str:
    """As `run_command`, for a record, which is read on other machines too: without the path of this one's Python."""
    return _tox_command(options) or f"{_RUN} {shlex.join(options)}"


def runnable(recorded: str) -> str:
    """A command from `recorded_run_command` as it runs in the current folder."""
    return run_command(*shlex.split(recorded.removeprefix(_RUN))) if recorded.startswith(_RUN) else recorded


def _tox_command(options: Sequence[str]) -> str:
    """The run through tox, with the versions that it was asked for; empty if tox did not start this one."""
    if not (prefix := os.environ.get(RUN_COMMAND)):
        return ""
    specs = {name: _CREDENTIALS.sub("", spec) for name in _SPECS if (spec := os.environ.get(name))}
    return " ".join([*(f"{name}={shlex.quote(spec)}" for name, spec in specs.items()), prefix, shlex.join(options)])


def _program() -> list[str]:
    python = Path(sys.executable)
    found = shutil.which(_SCRIPT)
    # tox puts its environment first on PATH, which the reader's shell does not.
    if found and "TOX_ENV_NAME" not in os.environ and Path(found).parent.resolve() == python.parent.resolve():
        return [_SCRIPT]
    return [_from_here(python), "-m", _SCRIPT]


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
