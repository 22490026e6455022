"""One command in a process group of its own, with a time limit for all of the group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from conformance.process.fork import end_with


def run_command(words: Sequence[str], *, output: int, seconds: int) -> int | None:
    """The command's exit code, negative for the signal that ended it; None where it exceeded its time limit.

    Args:
        words: The program and its arguments. No shell reads them.
        output: File descriptor for what it prints to stdout and stderr. A file: a process that the command leaves
            behind would keep a pipe open.
        seconds: The time limit. The command is then killed, and the processes that it has started with it.

    Raises:
        OSError: The program cannot be started.
    """
    parent = os.getpid()
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        process_group=0,
        # The worker that asks for it may be killed at any time, and kills only its own process group.
        preexec_fn=lambda: end_with(parent),  # noqa: PLW1509 - it takes no lock that another thread may hold
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
