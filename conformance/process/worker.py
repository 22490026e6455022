"""Each architecture in a process of its own, forked from one that has imported everything, and held to limits.

A crash, a hang or a leak inside torch, a delegate or the runtime then costs the cell it happened in and nothing else:
the next cell gets a new process. Forking costs 50 ms, importing torch, Transformers and ExecuTorch 13 s.

What a lost process was doing is told by what it leaves behind: the stage, in memory that it shares, however it ended;
and the Python frames, which faulthandler writes down if there is time to.
"""

from __future__ import annotations

import contextlib
import ctypes
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
from typing import Any

from conformance.core.verdicts import STAGE_BYTE, STAGES, Stage, Verdict

_POLL_S = 0.2
#: How long a process that is over its limit gets to write down where it was.
_LAST_WORDS_S = 1.0
_MIB = 1 << 20
#: Of Linux's prctl: the signal that this process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What an architecture may use: seconds for each of its programs, and MiB of resident memory at any time."""

    seconds: float
    mebibytes: int


class WorkerDiedError(Exception):
    """The process that judged a cell is gone.

    Args:
        verdict: crash, timeout or out-of-memory.
        stage: Where it was, as far as that can be told.
        message: What happened and the last words.
    """

    def __init__(self, verdict: Verdict, stage: Stage | None, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict
        self.stage = stage


class IsolatedWorker:
    """Runs the jobs of one architecture after the other in a forked process, which a job may take down.

    An architecture's subjects have processes of their own, since one may leave something behind that others meet:
    `ExecutorchExporter` tells torch, for good, how to take caches apart, and the reference cannot be traced after that.

    Args:
        judge: Does a job in the forked process; the job and what it returns have to be picklable.
        limits: What each architecture may use.

    Time is counted by program, the exported one too: however many backends there are, a slow one takes nothing from
    the others, and one that hangs ends as soon.
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
        self._diary = tempfile.NamedTemporaryFile(prefix="conformance-", suffix=".trace")  # noqa: SIM115 - see close

    def run(self, architecture: str, program: str, job: Any, subject: str | None = None) -> Any:
        """The result of `job`, which is about `program`, such as "xnnpack decode", and about `subject`, if any.

        Raises:
            ArchitectureLostError: The process died over it, or used up the program's time or the memory.
        """
        if architecture != self._architecture or (subject and self._subject and subject != self._subject):
            self._end()
            self._architecture, self._program, self._subject = architecture, None, None
        self._subject = subject or self._subject
        if program != self._program:
            self._program, self._spent = program, 0.0
        if self._spent >= self._limits.seconds:
            told = f"{architecture}, {program}, had used up its {self._limits.seconds:.0f} s before this cell"
            raise WorkerDiedError(Verdict.TIMEOUT, None, told)
        if self._process is None or not self._process.is_alive():
            self._end()
            self._start()
        began = time.monotonic()
        try:
            return self._wait(job, began)
        finally:
            self._spent += time.monotonic() - began

    def close(self) -> None:
        """End the process."""
        self._end()
        self._diary.close()
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
                raise self._lost(Verdict.CRASH) from None
            except Exception as error:  # something else than the answer was written into the pipe
                told = f"answered with what cannot be read ({type(error).__name__})"
                raise self._lost(Verdict.CRASH, told) from None
            if self._spent + time.monotonic() - began > self._limits.seconds:
                raise self._lost(Verdict.TIMEOUT, f"was over the {self._limits.seconds:.0f} s of {self._program}")
            used = _resident_mebibytes(self._process.pid)
            if used > self._limits.mebibytes:
                told = f"held {used} MiB, over its limit of {self._limits.mebibytes} MiB"
                raise self._lost(Verdict.OUT_OF_MEMORY, told)

    def _lost(self, verdict: Verdict, what: str | None = None) -> WorkerDiedError:
        """End what is left of the process, and tell what it was doing; `what` became of it, if it did not just end."""
        assert self._process is not None
        process = self._process
        if verdict is not Verdict.CRASH and process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGUSR1)  # faulthandler writes the traceback
            process.join(_LAST_WORDS_S)
        if what is None:
            process.join(_LAST_WORDS_S)  # the pipe closes a moment before the process has ended
            what = _ending(process.exitcode)
        stage = STAGES[self._stage[0] - 1] if self._stage[0] else None
        self._end()
        trace = Path(self._diary.name).read_text(errors="replace")
        frames = re.findall(r'File "(.+?)", line (\d+) in (.+)', trace)
        where = " < ".join(f"{Path(file).name}:{line} {function}" for file, line, function in frames[:6])
        at = f"at stage {stage}, " if stage else ""
        told = f"the process that judged it {what}; it was {at}at {where or 'a place it left no trace of'}"
        return WorkerDiedError(verdict, stage, told)

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        self._diary.truncate(0)
        self._stage[0] = 0
        self._connection = ours
        left = (self._stage, self._diary.name)
        self._process = context.Process(
            target=_serve, args=(theirs, ours, self._judge, os.getpid(), *left), daemon=True
        )
        self._process.start()
        theirs.close()  # or the end of the process would not be seen

    def _end(self) -> None:
        if self._process is not None and self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # with whatever it has started
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


def _serve(
    connection: Connection, parents: Connection, judge: Callable[[Any], Any], parent: int, stage: mmap.mmap, diary: str
) -> None:
    """The forked process: one job after the other, until the parent hangs up."""
    parents.close()
    os.setpgid(0, 0)
    end_with(parent)
    STAGE_BYTE.set(stage)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    with open(diary, "w") as trace:
        faulthandler.enable(file=trace)
        faulthandler.register(signal.SIGUSR1, file=trace, all_threads=False)
        with contextlib.suppress(EOFError, BrokenPipeError):
            while True:
                connection.send(judge(connection.recv()))
    os._exit(0)  # not through pytest's and xdist's own clean-up, which belongs to the parent


def end_with(parent: int) -> None:
    """Have this process killed when its `parent` has ended, by Linux: one that was killed itself can end nothing."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere there is no such call
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before
        os._exit(0)


def _ending(code: int | None) -> str:
    if code is None:
        return "closed the pipe to its parent"
    if code >= 0:
        return f"died with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    sender = ", which the kernel sends where memory has run out" if -code == signal.SIGKILL else ""
    return f"died of {name}{sender}"


def _resident_mebibytes(pid: int | None) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0  # it has just ended, or this is no Linux
    return pages * os.sysconf("SC_PAGE_SIZE") // _MIB
