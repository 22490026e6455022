"""Each architecture in a forked child of a process that has imported everything, within limits.

A crash, a hang or a leak inside torch, a delegate or the runtime then costs the cell it happened in and nothing else:
the next cell gets a new process. Forking costs 50 ms, importing torch, Transformers and ExecuTorch 13 s.

A process that died leaves behind the stage it was at, in memory that it shares, however it ended; and the Python
frames, which faulthandler writes to a file if there is time to.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import multiprocessing
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, NoReturn

from conformance.core.verdicts import STAGE_BYTE, STAGES, Stage, Verdict
from conformance.process.fork import end_with, ending

_POLL_S = 0.2
#: How long a process that exceeded a limit gets to write its traceback.
_TRACEBACK_S = 1.0
#: Innermost frames that a message names.
_FRAMES = 6
_MIB = 1 << 20
#: In place of a stage, what a process that asks for another leaves behind. Not an exit code: a subject may have any.
_ANOTHER = 255


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of an architecture: seconds for each of its programs, and MiB of resident memory at any time."""

    seconds: float
    mebibytes: int


class WorkerDiedError(Exception):
    """The process that judged a cell died, or was ended because it exceeded a limit.

    Args:
        verdict: crash, timeout or out-of-memory.
        stage: The stage it was at; None if it was at none.
        message: How it ended, at which stage, and its innermost frames.
    """

    def __init__(self, verdict: Verdict, stage: Stage | None, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict
        self.stage = stage


class AnotherAskedForError(Exception):
    """The process that should do a job has ended without an answer, for another that finds its parent ready for it."""


def ask_for_another() -> NoReturn:
    """In a process that `IsolatedWorker` forked: end it, and let the parent make ready what this one lacks."""
    STAGE_BYTE.get()[0] = _ANOTHER
    os._exit(0)


class IsolatedWorker:
    """Runs the jobs of one architecture after the other in a forked process, which a job may crash.

    An architecture's exporters have separate processes, since one may change torch for all that follow:
    `ExecutorchExporter` registers, for good, how torch flattens caches, and the reference cannot be traced after that.

    Args:
        judge: Does a job in the forked process; the job and its result have to be picklable.
        limits: What each architecture may use.

    Time is counted by program, the exported one too: a slow backend takes no time from the others, and one that hangs
    is ended as soon, however many there are.
    """

    def __init__(self, judge: Callable[[Any], Any], limits: Limits) -> None:
        self._judge = judge
        self._limits = limits
        self._architecture: str | None = None
        self._program: str | None = None
        self._subject: str | None = None
        self._spent = 0.0
        self._process: ForkProcess | None = None
        self._connection: Connection | None = None
        self._stage = mmap.mmap(-1, 1)
        self._traceback_file = tempfile.NamedTemporaryFile(prefix="conformance-", suffix=".trace")  # noqa: SIM115 - see close

    def run(self, architecture: str, program: str, job: Any, subject: str | None = None) -> Any:
        """The result of `job`.

        Args:
            architecture: The architecture that the job is about.
            program: Its program, such as "xnnpack decode", whose time limit the job counts towards.
            job: The argument for `judge`.
            subject: The exporter of the program, if there is one.

        Raises:
            AnotherAskedForError: The process called `ask_for_another`. The job may be run again.
            WorkerDiedError: The process died, or used up the program's time or the memory.
        """
        if architecture != self._architecture or (subject and self._subject and subject != self._subject):
            self._end()
            self._architecture, self._program, self._subject = architecture, None, None
        self._subject = subject or self._subject
        if program != self._program:
            self._program, self._spent = program, 0.0
        if self._spent >= self._limits.seconds:
            message = f"{architecture} used up the {self._limits.seconds:.0f} s limit for {program} before this cell"
            raise WorkerDiedError(Verdict.TIMEOUT, None, message)
        if self._process is None or not self._process.is_alive():
            self._end()
            self._start()
        began = time.monotonic()
        try:
            return self._wait(job, began)
        except AnotherAskedForError:
            began = time.monotonic()  # what was done so far is done again, and counts then
            raise
        finally:
            self._spent += time.monotonic() - began

    def close(self) -> None:
        """End the process."""
        self._end()
        self._traceback_file.close()
        self._stage.close()

    def _wait(self, job: Any, began: float) -> Any:
        assert self._connection is not None
        assert self._process is not None
        with contextlib.suppress(BrokenPipeError):
            self._connection.send(job)
        while True:
            try:
                if self._connection.poll(_POLL_S):
                    return self._connection.recv()
            except (EOFError, OSError):
                if self._stage[0] == _ANOTHER:
                    self._end()
                    raise AnotherAskedForError from None
                raise self._died(Verdict.CRASH) from None
            except Exception as error:  # something else than a result was written into the pipe
                how = f"sent an unreadable result ({type(error).__name__})"
                raise self._died(Verdict.CRASH, how) from None
            if self._spent + time.monotonic() - began > self._limits.seconds:
                how = f"exceeded the {self._limits.seconds:.0f} s limit for {self._program}"
                raise self._died(Verdict.TIMEOUT, how)
            used = _resident_mebibytes(self._process.pid)
            if used > self._limits.mebibytes:
                how = f"used {used} MiB, over its limit of {self._limits.mebibytes} MiB"
                raise self._died(Verdict.OUT_OF_MEMORY, how)

    def _died(self, verdict: Verdict, how: str | None = None) -> WorkerDiedError:
        """End the process if it still runs; `how` describes it, if it did not end by itself."""
        assert self._process is not None
        process = self._process
        if verdict is not Verdict.CRASH and process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGUSR1)  # faulthandler writes the traceback
            process.join(_TRACEBACK_S)
        if how is None:
            process.join(_TRACEBACK_S)  # the pipe closes a moment before the process has ended
            how = ending(process.exitcode)
        stage = STAGES[self._stage[0] - 1] if self._stage[0] else None
        self._end()
        frames = re.findall(
            r'File "(.+?)", line (\d+) in (.+)', Path(self._traceback_file.name).read_text(errors="replace")
        )
        trace = " < ".join(f"{Path(file).name}:{line} {function}" for file, line, function in frames[:_FRAMES])
        at = f" at stage {stage}" if stage else ""
        message = f"worker process {how}{at}; {f'traceback: {trace}' if trace else 'no traceback available'}"
        return WorkerDiedError(verdict, stage, message)

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        self._traceback_file.truncate(0)
        self._stage[0] = 0
        self._connection = ours
        shared = (self._stage, self._traceback_file.name)
        self._process = context.Process(
            target=_serve, args=(theirs, ours, self._judge, os.getpid(), *shared), daemon=True
        )
        self._process.start()
        theirs.close()  # or the end of the process would not be seen

    def _end(self) -> None:
        if self._process is not None and self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # with the processes that it has started
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


def _serve(
    connection: Connection,
    parents: Connection,
    judge: Callable[[Any], Any],
    parent: int,
    stage: mmap.mmap,
    traceback_file: str,
) -> None:
    """The forked process: one job after the other, until the parent hangs up."""
    parents.close()
    os.setpgid(0, 0)
    end_with(parent)
    STAGE_BYTE.set(stage)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # and SIGTERM, which would not end this process
    with open(traceback_file, "w") as file:
        faulthandler.enable(file=file)
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=False)
        with contextlib.suppress(EOFError, BrokenPipeError):
            while True:
                connection.send(judge(connection.recv()))
    os._exit(0)  # not through pytest's and xdist's own clean-up, which belongs to the parent


def _resident_mebibytes(pid: int | None) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0  # it has just ended, or this is not Linux
    return pages * os.sysconf("SC_PAGE_SIZE") // _MIB
