"""Sessions on a device: how many commands they take, what they say, and which faults of a driver they name."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conformance.core.device import Device
from conformance.core.paths import ROOT
from conformance.core.verdicts import StageError
from conformance.decoding import device as devices
from conformance.decoding.batched import Batched
from conformance.decoding.device import DeviceProgram, DeviceSession, DriverError, foresee
from conformance.decoding.device_files import DeviceFileError, Values, calls_text, read_calls, values_of
from conformance.decoding.sessions import Inputs
from tests.faults import drivers
from tests.faults.drivers import driver

pytestmark = pytest.mark.torch

_PROGRAM = DeviceProgram.of(b"a program that no runtime loads")
_OTHER_PROGRAM = DeviceProgram.of(b"another one")


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For each command that was run, how many calls it made."""
    made: list[int] = []
    answers = devices._answers

    def counted(sessions: list[DeviceSession], calls: list[tuple[DeviceSession, Inputs]]) -> object:
        made.append(len(calls))
        return answers(sessions, calls)

    monkeypatch.setattr(devices, "_answers", counted)
    return made


def _session(
    fault: Callable[..., None] = drivers.none, program: DeviceProgram = _PROGRAM, seconds: int = 60
) -> DeviceSession:
    return DeviceSession(Device("the board", driver(fault), seconds), program)


def _call(token: int, position: int) -> Inputs:
    return torch.tensor([[token]]), torch.tensor([position])


_CALLS = [_call(token, position) for position, token in enumerate((1, 2, 3))]


def _tokens(session: DeviceSession, calls: list[Inputs]) -> list[int]:
    return [int(session.step(*inputs).argmax()) for inputs in calls]


def test_foreseen_calls_take_one_command(commands: list[int]) -> None:
    session = _session()
    foresee((session, inputs) for inputs in _CALLS)
    assert _tokens(session, _CALLS) == [1, 3, 6]
    assert commands == [3]


def test_unforeseen_calls_are_right_too(commands: list[int]) -> None:
    session = _session()
    foresee((session, inputs) for inputs in _CALLS)
    assert _tokens(session, [*_CALLS[:2], _call(5, 2), _call(6, 3)]) == [1, 3, 0, 6]
    assert commands == [3, 3, 4]


def test_sessions_take_turns_in_one_command_after_what_each_has_done(commands: list[int]) -> None:
    sessions = _session(), _session(program=_OTHER_PROGRAM)
    assert _tokens(sessions[0], _CALLS[:1]) == [1]
    turns = [(sessions[0], _call(4, 1)), (sessions[1], _call(2, 0)), (sessions[0], _call(1, 2))]
    foresee(turns)
    assert [int(session.step(*inputs).argmax()) for session, inputs in turns] == [5, 2, 6]
    assert commands == [1, 4]


def test_calls_of_a_session_with_several_rows_are_foreseen_as_it_makes_them(commands: list[int]) -> None:
    session = Batched(_session(), 2, drivers.VOCAB, lambda prefix: torch.zeros(drivers.VOCAB), most=1.0)
    foresee((session, inputs) for inputs in _CALLS)
    assert [session.step(*inputs).shape[0] for inputs in _CALLS] == [1, 1, 1]
    assert commands == [3]


def test_inputs_arrive_as_they_are(tmp_path: Path) -> None:
    """Also those that no decoder should give (PAR-7)."""
    inputs = (
        *(torch.tensor([[1, 2]]), torch.tensor([2**40]), torch.tensor(3), torch.zeros((1, 0), dtype=torch.long)),
        *(torch.tensor([1.5, 1e-8]), torch.tensor([[-1]], dtype=torch.int32)),
    )
    path = tmp_path / "calls.jsonl"
    path.write_bytes(calls_text([], [0], [(0, inputs)]))
    arrived = [values.tensor for values in read_calls(path).lines[0].inputs]
    assert [(each.dtype, each.shape) for each in arrived] == [(each.dtype, each.shape) for each in inputs]
    assert all(torch.equal(one, other) for one, other in zip(arrived, inputs, strict=True))
    assert values_of(torch.tensor([[7]])) == Values("int64", (1, 1), (7,))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version": 1', '"version": 2', "the suite wrote version 2 of the protocol, expected 1"),
        ("conformance-calls", "calls", "the file of calls has a fault: format"),
        ('"calls": 1', '"calls": 2', "the file of calls has not its 2 calls in order"),
        ("int64", "int8", "the file of calls has a fault: inputs.0.dtype"),
    ],
)
def test_driver_refuses_calls_that_it_may_misread(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(calls_text([], [0], [(0, _CALLS[0])]).decode().replace(old, new, 1))
    with pytest.raises(DeviceFileError, match=message):
        read_calls(path)


def test_refused_call_is_an_error_as_of_this_machines_runtime() -> None:
    session = _session(drivers.refuses_a_call)
    foresee((session, inputs) for inputs in _CALLS)
    session.step(*_CALLS[0])
    with pytest.raises(StageError, match="refused with error 0x12: index out of range") as caught:
        session.step(*_CALLS[1])
    assert caught.value.signature == "execute:RuntimeError:error 0x12"
    assert int(session.step(*_CALLS[2]).argmax()) == 6


def test_refused_program_is_a_failure_at_load() -> None:
    with pytest.raises(StageError) as caught:
        _session(drivers.refuses_the_program).step(*_CALLS[0])
    assert caught.value.signature == "load:RuntimeError:error 0x20"


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (drivers.loses_a_call, "call-missing", r"left out call 1 of 3; exit code 0; its output: none"),
        (drivers.invents_a_call, "call-unknown", r"answered a call '7', and the calls are 0 to 2"),
        (drivers.names_calls_from_1, "call-missing", r"left out call 0 of 3"),
        (drivers.answers_twice, "call-twice", r"gave both logits and an error for call 1"),
        (drivers.refuses_at_an_unknown_stage, "logits-unreadable", r"wrote metadata with a fault: 1\.stage: Input"),
        (drivers.gives_half_precision, "wrong-dtype", r"gave logits of torch\.float16 for call 1, expected .*float32"),
        (drivers.is_old, "other-version", r"wrote version 0 of the protocol, expected 1"),
        (drivers.writes_another_format, "logits-unreadable", r"wrote the format 'pt', not conformance-logits"),
        (drivers.answers_the_calls_of_before, "other-calls", r"answered a file of calls with the SHA-256 [0-9a-f]{64}"),
        (drivers.runs_the_program_of_before, "other-program", r"loaded a program with the SHA-256 \w{12}, expected \w"),
        (drivers.segfaults, "died", r"died of SIGSEGV; its output: none"),
        (drivers.finds_no_device, "died", r"died with exit code 3; its output: adb: no devices/emulators found"),
        (drivers.writes_nothing, "no-logits", r"wrote no file of logits; exit code 0"),
        (drivers.writes_garbage, "logits-unreadable", r"wrote logits that are not safetensors"),
        (drivers.cuts_the_file_short, "logits-unreadable", r"wrote logits that are not safetensors"),
    ],
)
def test_fault_of_a_driver_is_named(fault: Callable[..., None], code: str, message: str) -> None:
    session = _session(fault)
    with pytest.raises(DriverError, match=f"^the driver of the board {message}") as caught:
        foresee((session, inputs) for inputs in _CALLS)
    assert caught.value.signature == f"execute:driver:{code}"


def test_driver_that_hangs_is_ended_with_what_it_has_started() -> None:
    with pytest.raises(
        DriverError, match=r"exceeded its limit of 3 s for 1 call; its output: waiting for \d+"
    ) as caught:
        _session(drivers.hangs, seconds=3).step(*_CALLS[0])
    assert caught.value.signature == "execute:driver:timeout"
    child = int(re.findall(r"waiting for (\d+)", str(caught.value))[0])
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_driver_that_does_not_exist_is_named() -> None:
    session = DeviceSession(Device("the board", ("no-such-driver",)), _PROGRAM)
    with pytest.raises(DriverError, match=r"the driver of the board cannot be started: .*No such file") as caught:
        session.step(*_CALLS[0])
    assert caught.value.signature == "execute:driver:not-started"
