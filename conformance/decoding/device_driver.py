"""A driver: ExecuTorch's Python runtime in a process of its own. `python -m conformance.decoding.device_driver`.

It takes the path of a file of calls and the path of the file of logits that it writes: see `docs/guides/devices.md`.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from conformance.decoding.custom_operators import register_operators_of
from conformance.decoding.device_files import Answer, Refusal, read_calls, write_logits
from conformance.decoding.local_runtime import local_runtime

if TYPE_CHECKING:
    from executorch.runtime import Method

_CODE = re.compile(r"error 0x([0-9a-fA-F]+)")


def answer(calls: Path) -> tuple[list[str], dict[int, Answer]]:
    """The SHA-256 of each program, and the answer to each call in the file `calls`."""
    asked = read_calls(calls)
    programs = [(calls.parent / program.file).read_bytes() for program in asked.header.programs]
    last = {line.session: line.call for line in asked.lines}
    sessions: dict[int, Method | Refusal] = {}
    answers: dict[int, Answer] = {}
    for line in asked.lines:
        if line.session not in sessions:
            sessions[line.session] = _loaded(programs[asked.header.sessions[line.session]])
        session = sessions[line.session]
        inputs = tuple(values.tensor for values in line.inputs)
        answers[line.call] = session if isinstance(session, Refusal) else _executed(session, inputs)
        if last[line.session] == line.call:
            del sessions[line.session]  # with its caches: a file may have more sessions than memory has room for
    return [hashlib.sha256(program).hexdigest() for program in programs], answers


def _loaded(program: bytes) -> Method | Refusal:
    try:
        register_operators_of(program)
        method: Any = local_runtime().load_program(program).load_method("forward")
    except Exception as error:  # the runtime's, and those of its Python binding
        return _refusal("load", error)
    return method or Refusal("load", message="the program has no method 'forward'")


def _executed(method: Method, inputs: tuple[torch.Tensor, ...]) -> Answer:
    try:
        logits = method.execute(inputs)[0]
    except Exception as error:  # as above
        return _refusal("execute", error)
    if not isinstance(logits, torch.Tensor):
        return Refusal("execute", message=f"the program returned {type(logits).__name__}, not logits")
    return logits.float().clone()  # the runtime reuses an output's memory in the next call


def _refusal(stage: Literal["load", "execute"], error: Exception) -> Refusal:
    found = _CODE.search(str(error))
    return Refusal(stage, int(found[1], 16) if found else None, f"{type(error).__name__}: {error}")


def main() -> None:
    """Answer the file of calls that the first argument names in the file of logits that the second one names."""
    if len(sys.argv) != 3:
        raise SystemExit("usage: python -m conformance.decoding.device_driver CALLS LOGITS")
    calls, logits = map(Path, sys.argv[1:])
    programs, answers = answer(calls)
    write_logits(logits, calls.read_bytes(), programs, answers)


if __name__ == "__main__":
    main()
