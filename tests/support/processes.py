"""Runs of the miniature suite in processes of their own. Imports no torch, and neither do they."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from conformance.core.paths import ROOT
from conformance.core.time_scale import scaled
from conformance.core.verdicts import Verdict
from conformance.records.run import CellRecord, journal_of, load_run

#: Eight cells: four clauses of two architectures.
CELLS = ("--arch", "gpt2,llama", "--backend", "exported", "--mode", "decode", "--clause", "EXP-1,EXP-2,EXP-3,SEN-2")

#: What makes it the miniature suite.
CHECKS = ("-p", "tests.faults.miniature", "tests/faults/miniature_checks.py")

#: Seconds after which a run is ended; on a busy machine one takes 20.
_MOST_S = scaled(180)


def started(
    record: Path,
    *arguments: str,
    behaviours: str = "",
    room: int = resource.RLIM_INFINITY,
    session: bool = False,
) -> subprocess.Popen[str]:
    """A run of the miniature suite; all it prints goes to its `stdout`.

    Args:
        record: Where its record goes.
        arguments: More of the command line.
        behaviours: What its checks do; see `tests.faults.miniature_checks`.
        room: Bytes that any of its files may have, as on a disk that is full.
        session: Whether it leads a process group, as in a terminal.
    """
    command = [
        "pytest",
        *CHECKS,
        *CELLS,
        "--record",
        str(record),
    ]
    return subprocess.Popen(
        [sys.executable, "-m", *command, *arguments],
        cwd=ROOT,
        env={**os.environ, "MINIATURE": behaviours},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=session,
        preexec_fn=lambda: _begin(room),  # noqa: PLW1509
    )


def _begin(room: int) -> None:
    """In the new process: what a shell may have taken away comes back, and a hang costs one test and not the run."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it, and so do their children
    signal.alarm(_MOST_S)


def ended(record: Path, *arguments: str, behaviours: str = "") -> tuple[int, str]:
    """The exit code of such a run, and all that it printed."""
    run = started(record, *arguments, behaviours=behaviours)
    output = run.communicate(timeout=scaled(300))[0]
    return run.returncode, output


def judged(record: Path) -> list[CellRecord]:
    """The cells of a record or a journal that have a verdict."""
    return [cell for cell in load_run(record).cells if cell.verdict is not Verdict.NOT_RUN]


def wait_for_verdicts(run: subprocess.Popen[str], record: Path, count: int = 1) -> None:
    """Until the record's journal has `count` verdicts; it has to be one whenever it is looked at."""
    journal = journal_of(record)
    while not journal.exists() or len(judged(journal)) < count:
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether the process has ended, or does so within 20 seconds, scaled."""
    for _ in range(scaled(200)):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def children(pid: int) -> list[int]:
    """The processes that this one has started and that are still there."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
