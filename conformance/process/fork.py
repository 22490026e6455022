"""One function in a forked child process: with its output in a file, a time limit, and never outliving its parent."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

#: Of Linux's prctl: the signal that this process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


def fork(work: Callable[[], int | None], *, stdout: int, stderr: int, seconds: int | None = None) -> int:
    """Call `work` in a forked child process; returns the child's process id, for `wait`.

    Not by multiprocessing, which lets no daemon have children: cells are judged in a daemon. The child ends without
    Python's clean-up, which belongs to the parent, and without the parent's other threads.

    Args:
        work: Returns the child's exit code, None for 0. What it raises is written to `stderr`, with exit code 1.
        stdout, stderr: File descriptors for what Python and native code print in the child.
        seconds: After these, the kernel ends the child with SIGALRM, also where native code hangs; None for no limit.
    """
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        end_with(parent)
        faulthandler.disable()  # it would write into the traceback file of the parent
        if seconds is not None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        code = work() or 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """The exit code of a child process, once it has ended; negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def collect(work: Callable[[], Iterable[Any]], *, output: int, seconds: int | None) -> tuple[list[Any], int]:
    """What `work` yields in a forked child process, as far as it got, and the child's exit code; see `fork`.

    Args:
        work: Yields what can be pickled.
        output: File descriptor for what the child prints.
        seconds: The child's time limit, None for none. Its exit code is `-signal.SIGALRM` if that was exceeded.
    """
    reading, writing = os.pipe()

    def send() -> None:
        with os.fdopen(writing, "wb") as pipe:
            for result in work():
                pickle.dump(result, pipe)
                pipe.flush()

    child = fork(send, stdout=output, stderr=output, seconds=seconds)
    os.close(writing)  # or the end of the child would not be seen
    with os.fdopen(reading, "rb") as pipe:
        results = list(_unpickled(pipe))
    return results, wait(child)


def _unpickled(pipe: BinaryIO) -> Iterator[Any]:
    with contextlib.suppress(EOFError, pickle.UnpicklingError):  # the last one may be cut short
        while True:
            yield pickle.load(pipe)


def end_with(parent: int) -> None:
    """Have Linux kill this process when its `parent` ends: a parent that is killed cannot end its children itself."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere there is no such call
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before
        os._exit(0)


def ending(code: int | None) -> str:
    """How a process with this exit code ended, such as "died of SIGSEGV"; None for one that still runs."""
    if code is None:
        return "closed the pipe to its parent"
    if code >= 0:
        return f"died with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    sender = ", which the kernel sends when memory runs out" if -code == signal.SIGKILL else ""
    return f"died of {name}{sender}"
