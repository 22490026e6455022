"""Sessions on a device that is not this machine: a driver runs many calls with one command."""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from conformance.core.device import Device
from conformance.core.text import one_line, plural
from conformance.core.time_scale import scaled
from conformance.core.verdicts import CellFailedError, Stage, at
from conformance.decoding.device_files import Answer, DeviceFileError, ProgramRef, Refusal, calls_text, read_logits
from conformance.decoding.sessions import Inputs, Session
from conformance.process.command import run_command
from conformance.process.fork import ending

#: How much of a driver's output a message quotes.
_LAST_LINES, _LAST_CHARACTERS = 4, 400


class DriverError(CellFailedError):
    """A driver did not do what the protocol asks, so the device's runtime cannot be judged."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(Stage.EXECUTE, f"driver:{code}", message)


@dataclass(frozen=True, slots=True)
class DeviceProgram:
    """A `.pte` file for a device.

    Args:
        content: Its bytes.
        sha256: Their SHA-256 in hexadecimal.
    """

    content: bytes = field(repr=False)
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> DeviceProgram:
        """The program with these bytes."""
        return cls(content, hashlib.sha256(content).hexdigest())


class DeviceSession:
    """A session on a device, which makes its calls at once where they are foreseen.

    A call that was not foreseen starts the driver for this session alone, with all of the session's calls before it.
    """

    def __init__(self, device: Device, program: DeviceProgram) -> None:
        self.device = device
        self.program = program
        #: The calls so far.
        self.made: list[Inputs] = []
        #: Calls that are foreseen, with their answers.
        self.ahead: deque[tuple[Inputs, Answer]] = deque()

    def step(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """See `Session.step`.

        Raises:
            StageError: The device's runtime refused the call, or the program, at stage load.
            DriverError: The driver failed.
        """
        inputs = input_ids, cache_position
        if not self.ahead or not _same(self.ahead[0][0], inputs):
            self.ahead.clear()
            _run_ahead([(self, inputs)])
        answer = self.ahead.popleft()[1]
        self.made.append(inputs)
        if isinstance(answer, Refusal):
            with at(Stage(answer.stage)):
                raise RuntimeError(str(answer))
        return answer


@runtime_checkable
class Translating(Protocol):
    """A session that makes other calls on a session inside."""

    def translated(self, calls: Sequence[Inputs]) -> tuple[Session, list[Inputs]]:
        """The session inside, and the calls on it that `calls` become if they come next."""


def foresee(calls: Iterable[tuple[Session, Inputs]]) -> None:
    """Announce the next calls, in this order, so that a device makes all of them with one command.

    It changes no answer, and does nothing to sessions that run on this machine.

    Raises:
        DriverError: The driver failed.
    """
    calls = list(calls)
    own: dict[int, list[Inputs]] = {}
    for session, inputs in calls:
        own.setdefault(id(session), []).append(inputs)
    inside: dict[int, Iterator[tuple[Session, Inputs]]] = {}
    for session in {id(session): session for session, _ in calls}.values():
        whose, made = session, own[id(session)]
        if isinstance(session, Translating):
            whose, made = session.translated(made)
        inside[id(session)] = zip(repeat(whose), made)
    planned = [next(inside[id(session)]) for session, _ in calls]
    _run_ahead([(session, inputs) for session, inputs in planned if isinstance(session, DeviceSession)])


def _run_ahead(planned: Sequence[tuple[DeviceSession, Inputs]]) -> None:
    """Make the `planned` calls, after those that their sessions have made already; each session keeps its answers."""
    sessions = list(dict.fromkeys(session for session, _ in planned))
    if not sessions:
        return
    before = [(session, inputs) for session in sessions for inputs in session.made]
    # Not in `at(Stage.EXECUTE)`: whatever else fails here would read as a refusal of the runtime.
    answers = _answers(sessions, [*before, *planned])
    for session in sessions:
        session.ahead.clear()
    for (session, inputs), answer in zip(planned, answers[len(before) :], strict=True):
        session.ahead.append((inputs, answer))


def _answers(sessions: Sequence[DeviceSession], calls: Sequence[tuple[DeviceSession, Inputs]]) -> list[Answer]:
    """One command of the driver: `calls` on new sessions, in order."""
    programs = {session.program.sha256: session.program for session in sessions}
    places = {sha256: index for index, sha256 in enumerate(programs)}
    numbers = {session: index for index, session in enumerate(sessions)}
    content = calls_text(
        [ProgramRef(f"{sha256}.pte", sha256) for sha256 in programs],
        [places[session.program.sha256] for session in sessions],
        ((numbers[session], inputs) for session, inputs in calls),
    )
    return _driven(sessions[0].device, content, list(programs.values()), len(calls))


def _driven(device: Device, content: bytes, programs: Sequence[DeviceProgram], number: int) -> list[Answer]:
    """The answers of `device` to a file of `number` calls with this content."""
    with tempfile.TemporaryDirectory(prefix="conformance-device-") as name:
        directory = Path(name)
        calls, logits, printed = (directory / part for part in ("calls.jsonl", "logits.safetensors", "output"))
        calls.write_bytes(content)
        for program in programs:
            (directory / f"{program.sha256}.pte").write_bytes(program.content)
        words, seconds = (*device.command, str(calls), str(logits)), scaled(device.seconds)
        try:
            with printed.open("wb") as output:
                exit_code = run_command(words, output=output.fileno(), seconds=seconds)
        except OSError as error:
            raise DriverError("not-started", f"the driver of {device.name} cannot be started: {error}") from error
        if exit_code is None:
            code, fault = "timeout", f"exceeded its limit of {seconds} s for {plural(number, 'call')}"
        elif exit_code:
            code, fault = "died", ending(exit_code)
        else:
            try:
                return read_logits(logits, content, [program.sha256 for program in programs], number)
            except DeviceFileError as error:
                code, fault = error.code, f"{error}; exit code 0"
        last = _last_lines(printed.read_text(errors="replace"))
        raise DriverError(code, f"the driver of {device.name} {fault}; its output: {last}")


def _same(one: Inputs, other: Inputs) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _last_lines(printed: str) -> str:
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return one_line(" | ".join(lines[-_LAST_LINES:])[-_LAST_CHARACTERS:], _LAST_CHARACTERS) or "none"
