"""Programs made in other processes: whether what a process is or has done before shows in their bytes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from conformance.core.call_shape import CallShape
from conformance.core.cells import Program
from conformance.core.contract import Mode
from conformance.core.verdicts import ChildDiedError, Stage, Verdict
from conformance.process.fork import ending

#: Of new processes; this one may have the first. With equal seeds, the order of a set of strings would be the same.
_HASH_SEEDS = ("1", "2", "3")
#: What a process runs.
_MODULE = "conformance.pipeline"
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


def difference_by_process(request: Request, emitted: bytes) -> str:
    """How the `.pte` files of processes with different hash seeds differ; empty if they have the same bytes.

    A new process's file is compared with `emitted`, this process's. Where they differ, what this process has lowered
    before may be why, such as a counter that went on, and the file of a second new process decides.

    Raises:
        ChildDiedError: A process ended without a program.
    """
    seeds = [seed for seed in _HASH_SEEDS if seed != os.environ.get("PYTHONHASHSEED")]
    first = _emitted(request, seeds[0])
    if first == emitted:
        return ""
    second = _emitted(request, seeds[1])
    if first == second:
        return ""
    if len(first) != len(second):
        return f"{len(second)} bytes after {len(first)}"
    differing = [index for index, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]
    return f"{len(differing)} of {len(first)} bytes, the first at {differing[0]}"


def _emitted(request: Request, seed: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="conformance-process-") as name:
        path = Path(name) / "program.pte"
        completed = subprocess.run(
            [sys.executable, "-m", _MODULE, str(request), str(path), str(os.getpid())],
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
        return path.read_bytes()
