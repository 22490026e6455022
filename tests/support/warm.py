"""`python -m …` in a fork of a process that has imported torch, Transformers and ExecuTorch already.

These take 9 s of CPU, most of what many a command takes that a test runs. What a process does when it is new is not
seen in a warm one: `tests.support.harness.python_module` is for that, and for a copy of the suite.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from conformance.core.paths import ROOT
from conformance.core.time_scale import scaled

#: Seconds after which a command is ended.
_MOST_S = scaled(300)
_new = subprocess.run
_warm = multiprocessing.get_context("forkserver")
_warm.set_forkserver_preload(["tests.support.warm_imports"])


def warm_module(
    *arguments: str, environ: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """`python -m` with these arguments, in the folder `cwd` and with this environment (default: the test's own).

    Raises:
        subprocess.TimeoutExpired: It has not ended within 300 seconds, scaled.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _warm.Process(target=_become, args=(arguments, dict(environ or os.environ), cwd, out, err))
        process.start()
        process.join(_MOST_S)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, _MOST_S, out.read_text(), err.read_text())
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def _become(arguments: Sequence[str], environ: Mapping[str, str], cwd: Path, out: Path, err: Path) -> None:
    """Go on as if this process had been started by `python -m`."""
    for descriptor, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(cwd)
    with mock.patch.object(subprocess, "run", _run), mock.patch.object(os, "execve", _execve):
        _go_on(arguments, environ)


def _go_on(arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    environ = dict(environ)  # it may be this process's
    os.environ.clear()
    os.environ.update(environ)
    sys.argv[:] = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run`, by which `conformance model check` starts a run of the suite: a fork of this process."""
    if [*command[:2], *options] != [sys.executable, "-m", "env", "check"]:
        return _new(command, **options)
    process = multiprocessing.get_context("fork").Process(target=_go_on, args=(command[2:], options["env"]))
    process.start()
    process.join()
    return subprocess.CompletedProcess(command, process.exitcode or 0)


def _execve(_: str, command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """`os.execve`, by which `conformance run` becomes pytest."""
    _go_on(command[2:], environ)
    raise SystemExit
