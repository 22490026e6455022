"""Drivers of devices with one thing wrong each: `python -m tests.faults.drivers FAULT CALLS LOGITS`.

Faults of the protocol are put into answers that are made up, by a driver that imports nothing of the suite: it proves
that `docs/guides/devices.md` says all that a driver has to know. Faults of logits are put into those of ExecuTorch's
runtime.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

#: Width of the logits that are made up.
VOCAB = 8

Logits = dict[str, np.ndarray]
Metadata = dict[str, Any]


def driver(fault: Callable[..., None]) -> tuple[str, ...]:
    """The words of the driver's command, for the folder that the suite lies in."""
    return (sys.executable, "-m", "tests.faults.drivers", fault.__name__)


def none(logits: Logits, metadata: Metadata) -> None:
    """What is right."""


def loses_a_call(logits: Logits, metadata: Metadata) -> None:
    del logits["1"]


def invents_a_call(logits: Logits, metadata: Metadata) -> None:
    logits["7"] = logits["0"]


def names_calls_from_1(logits: Logits, metadata: Metadata) -> None:
    renamed = {str(int(name) + 1): values for name, values in logits.items()}
    logits.clear()
    logits.update(renamed)


def answers_twice(logits: Logits, metadata: Metadata) -> None:
    metadata["refused"] = {"1": {"stage": "execute", "code": 18}}


def refuses_a_call(logits: Logits, metadata: Metadata) -> None:
    """A driver may: it is the runtime that is at fault then, or the call."""
    del logits["1"]
    metadata["refused"] = {"1": {"stage": "execute", "code": 18, "message": "index out of range"}}


def refuses_the_program(logits: Logits, metadata: Metadata) -> None:
    """A driver may, as above."""
    metadata["refused"] = {name: {"stage": "load", "code": 32} for name in logits}
    logits.clear()


def refuses_at_an_unknown_stage(logits: Logits, metadata: Metadata) -> None:
    del logits["1"]
    metadata["refused"] = {"1": {"stage": "lunch", "code": 18}}


def gives_half_precision(logits: Logits, metadata: Metadata) -> None:
    logits["1"] = logits["1"].astype(np.float16)


def is_old(logits: Logits, metadata: Metadata) -> None:
    metadata["version"] = "0"


def writes_another_format(logits: Logits, metadata: Metadata) -> None:
    metadata["format"] = "pt"


def answers_the_calls_of_before(logits: Logits, metadata: Metadata) -> None:
    metadata["calls"] = hashlib.sha256(b"calls of before").hexdigest()


def runs_the_program_of_before(logits: Logits, metadata: Metadata) -> None:
    metadata["programs"] = [hashlib.sha256(b"program of before").hexdigest()]


def segfaults(logits: Logits, metadata: Metadata) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def finds_no_device(logits: Logits, metadata: Metadata) -> None:
    print("adb: no devices/emulators found", file=sys.stderr)
    raise SystemExit(3)


def hangs(logits: Logits, metadata: Metadata) -> None:
    """And so does what it has started, which is named in the first line of its output."""
    child = subprocess.Popen(["sleep", "600"])
    print(f"waiting for {child.pid}", flush=True)
    time.sleep(600)


#: Faults of the file itself.
def writes_nothing(path: Path) -> None:
    path.unlink()


def writes_garbage(path: Path) -> None:
    path.write_bytes(b"\x08\0\0\0\0\0\0\0not json")


def cuts_the_file_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


#: Faults of the logits of ExecuTorch's runtime, as torch tensors.
def exchanges_two_calls(answers: dict[int, Any]) -> None:
    answers[1], answers[2] = answers[2], answers[1]


def is_a_call_late(answers: dict[int, Any]) -> None:
    for index in sorted(answers, reverse=True)[:-1]:
        answers[index] = answers[index - 1].clone()


def loses_a_row(answers: dict[int, Any]) -> None:
    answers[1] = answers[1][:, :-1]


def gives_nan(answers: dict[int, Any]) -> None:
    answers[1] = answers[1] * float("nan")


def is_off(answers: dict[int, Any]) -> None:
    """As a runtime with a wrong kernel."""
    for index in answers:
        answers[index] = answers[index] * 1.5


def keeps_caches(answers: dict[int, Any]) -> None:
    """It makes the calls of all sessions on one: see `_runtime_answers`."""


_FILES = (writes_nothing, writes_garbage, cuts_the_file_short)
_RUNTIME = (exchanges_two_calls, is_a_call_late, loses_a_row, gives_nan, is_off, keeps_caches)


def main() -> None:
    """Answer the calls, with the fault."""
    fault, calls, logits = globals()[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])
    if fault in _RUNTIME:
        _answer_by_runtime(fault, calls, logits)
        return
    header, *lines = map(json.loads, calls.read_text().splitlines())
    assert (header["format"], header["version"]) == ("conformance-calls", 1)
    metadata: Metadata = {
        "format": "conformance-logits",
        "version": "1",
        "calls": hashlib.sha256(calls.read_bytes()).hexdigest(),
        "programs": [
            hashlib.sha256((calls.parent / program["file"]).read_bytes()).hexdigest() for program in header["programs"]
        ],
        "refused": {},
    }
    answers = _made_up(lines)
    if fault not in _FILES:
        fault(answers, metadata)
    save_file(
        answers,
        logits,
        {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()},
    )
    if fault in _FILES:
        fault(logits)


def _made_up(lines: list[dict[str, Any]]) -> Logits:
    """For each call, 1 for the sum of the session's tokens so far, and 0 else."""
    sums: dict[int, int] = {}
    answers = {}
    for line in lines:
        ids, _ = (np.array(each["data"]).reshape(each["shape"]) for each in line["inputs"])
        sums[line["session"]] = sums.get(line["session"], 0) + int(ids.sum())
        one_hot = np.eye(VOCAB, dtype=np.float32)[sums[line["session"]] % VOCAB]
        answers[str(line["call"])] = np.broadcast_to(one_hot, (*ids.shape, VOCAB)).copy()
    return answers


def _answer_by_runtime(fault: Callable[..., None], calls: Path, logits: Path) -> None:
    from conformance.decoding.device_driver import answer
    from conformance.decoding.device_files import write_logits

    content = calls.read_bytes()
    if fault is keeps_caches:
        header, *lines = map(json.loads, content.splitlines())
        one = [{**header, "sessions": header["sessions"][:1]}, *({**line, "session": 0} for line in lines)]
        calls.write_text("\n".join(map(json.dumps, one)))
    programs, answers = answer(calls)
    fault(answers)
    write_logits(logits, content, programs, answers)


if __name__ == "__main__":
    main()
