"""Programs made in other processes: whether what a process is or has done before shows in their bytes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from conformance.core.call_shape import CallShape
from conformance.core.cells import Program
from conformance.core.contract import Mode
from conformance.core.verdicts import ChildDiedError, Stage, Verdict
from conformance.process.fork import ending

#: Of the two processes. With equal seeds, the order of a set of strings is the same in both.
_HASH_SEEDS = ("1", "2")
#: Lines of a process's output that a message quotes.
_LAST_LINES = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A program for another process to make. Its exporter and backend must be known by name, as on the command line.

    Args:
        program: The program.
        shape: The shape of its calls.
        attention: What the exporter is asked for, one of `conformance.core.attention.ATTENTIONS`.
    """

    program: Program
    shape: CallShape
    attention: str

    def __str__(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def parse(cls, text: str) -> Request:
        """The request that was written as `text`."""
        fields = json.loads(text)
        program = fields["program"] | {"mode": Mode(fields["program"]["mode"])}
        return cls(Program(**program), CallShape(**fields["shape"]), fields["attention"])


def difference_by_process(request: Request) -> str:
    """How the `.pte` files of two new processes with different hash seeds differ; empty if they have the same bytes.

    Not of one process twice, which would ask whether some counter starts again, nor of a program that was saved and
    loaded, whose symbols have other numbers.

    Raises:
        ChildDiedError: A process ended without a program.
    """
    first, second = _emitted(request)
    if first == second:
        return ""
    if len(first) != len(second):
        return f"{len(second)} bytes after {len(first)}"
    differing = [index for index, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]
    return f"{len(differing)} of {len(first)} bytes, the first at {differing[0]}"


def _emitted(request: Request) -> Iterator[bytes]:
    with tempfile.TemporaryDirectory(prefix="conformance-process-") as name:
        path = Path(name) / "program.pte"
        for seed in _HASH_SEEDS:
            completed = subprocess.run(
                [sys.executable, "-m", "conformance.pipeline", str(request), str(path), str(os.getpid())],
                env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            if completed.returncode:
                printed = " | ".join(completed.stderr.strip().splitlines()[-_LAST_LINES:])
                message = f"the process with hash seed {seed} {ending(completed.returncode)}; its output: {printed}"
                raise ChildDiedError(Verdict.CRASH, Stage.LOWER, message)
            yield path.read_bytes()
