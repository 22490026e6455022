"""A forked child gives back what it has, says how it ended, and never outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conformance.core.paths import ROOT
from conformance.core.time_scale import scaled
from conformance.process.fork import collect, ending
from tests.support.processes import is_gone

pytestmark = pytest.mark.process


def _collect(
    tmp_path: Path, work: Callable[[], Iterator[object]], seconds: int = scaled(60)
) -> tuple[list[object], int, str]:
    """What came back, the exit code, and what was printed."""
    with (tmp_path / "output").open("wb") as output:
        results, code = collect(work, output=output.fileno(), seconds=seconds)
    return results, code, (tmp_path / "output").read_text()


def test_results_and_output_come_back(tmp_path: Path) -> None:
    def work() -> Iterator[object]:
        os.write(1, b"to stdout\n")
        yield os.getppid()
        os.write(2, b"to stderr\n")
        yield b"x" * (1 << 20)  # more than a pipe holds

    assert _collect(tmp_path, work) == ([os.getpid(), b"x" * (1 << 20)], 0, "to stdout\nto stderr\n")


def _raises() -> None:
    raise ZeroDivisionError("not like this")


@pytest.mark.parametrize(
    ("end", "code", "how"),
    [
        (_raises, 1, "died with exit code 1"),
        (lambda: os._exit(3), 3, "died with exit code 3"),
        (os.abort, -signal.SIGABRT, "died of SIGABRT"),
        (lambda: os.kill(os.getpid(), 40), -40, "died of signal 40"),
        (lambda: time.sleep(60), -signal.SIGALRM, "died of SIGALRM"),
    ],
)
def test_what_came_before_a_bad_end_is_kept(tmp_path: Path, end: Callable[[], object], code: int, how: str) -> None:
    def work() -> Iterator[object]:
        yield "before"
        end()

    results, exit_code, output = _collect(tmp_path, work, seconds=2)
    assert (results, exit_code, ending(exit_code)) == (["before"], code, how)
    assert ("ZeroDivisionError: not like this" in output) is (end is _raises)


def _in_a_daemon(tmp_path: Path) -> None:
    os._exit(0 if _collect(tmp_path, lambda: iter([1])) == ([1], 0, "") else 1)


def test_a_daemon_may_fork(tmp_path: Path) -> None:
    daemon = multiprocessing.get_context("fork").Process(target=_in_a_daemon, args=(tmp_path,), daemon=True)
    daemon.start()
    daemon.join(60)
    assert daemon.exitcode == 0


_PARENT = """
import os, time
from conformance.process.fork import fork, wait

def hang():
    print(os.getpid(), flush=True)
    time.sleep(600)

wait(fork(hang, stdout=1, stderr=2))
"""


def test_child_ends_with_a_parent_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
    assert is_gone(child)
