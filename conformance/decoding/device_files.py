"""The two files between the suite and a device's driver, version 1: calls as JSON lines, logits as safetensors.

`docs/guides/devices.md` describes them for those who write a driver.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from conformance.core.validation import first_problem

CALLS_FORMAT: Final = "conformance-calls"
LOGITS_FORMAT: Final = "conformance-logits"
#: Of both files. A change that an older driver would misread raises it.
VERSION = 1

#: The dtypes of a call's inputs, by torch's names.
DType = Literal["int64", "int32", "float32"]

_DTYPES: dict[DType, torch.dtype] = {"int64": torch.int64, "int32": torch.int32, "float32": torch.float32}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Index = Annotated[int, Field(ge=0)]


class DeviceFileError(ValueError):
    """A file does not follow the protocol.

    Args:
        code: A short name for the fault, such as "call-missing".
        message: What is wrong; of a file of logits, as the rest of a sentence about the driver.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class ProgramRef:
    """A program: the name of its `.pte` file, beside the file of calls, and its SHA-256 in hexadecimal."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a file of calls.

    Args:
        format: `CALLS_FORMAT`.
        version: `VERSION`.
        programs: The programs.
        sessions: For each session, the index of its program. A session has caches of its own, empty at first.
        calls: Number of calls, one on each following line.
    """

    format: Literal["conformance-calls"]
    version: int
    programs: tuple[ProgramRef, ...]
    sessions: tuple[Index, ...]
    calls: int


@dataclass(frozen=True, slots=True)
class Values:
    """A tensor: its dtype by torch's name, its shape, and its values in row-major order."""

    dtype: DType
    shape: tuple[Index, ...]
    data: tuple[int | float, ...]

    @property
    def tensor(self) -> torch.Tensor:
        """As torch has it."""
        return torch.tensor(self.data, dtype=_DTYPES[self.dtype]).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class CallLine:
    """One call of `forward`: its index, its session, and its inputs in order."""

    call: Index
    session: Index
    inputs: tuple[Values, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error of the device's runtime in place of logits.

    Args:
        stage: Where the runtime failed: it did not load the session's program, or did not execute the call.
        code: ExecuTorch's error code, where there is one.
        message: The runtime's own words, where there are any.
    """

    stage: Literal["load", "execute"]
    code: int | None = None
    message: str = ""

    def __str__(self) -> str:
        code = "" if self.code is None else f"refused with error 0x{self.code:x}"
        return ": ".join(filter(None, (code, self.message))) or "refused"


@dataclass(frozen=True, slots=True)
class Calls:
    """A file of calls."""

    header: Header
    lines: tuple[CallLine, ...]


#: The logits of a call, float32, or why there are none.
Answer = torch.Tensor | Refusal

_HEADER, _LINE = TypeAdapter(Header), TypeAdapter(CallLine)
_REFUSALS, _HASHES = TypeAdapter(dict[str, Refusal]), TypeAdapter(tuple[str, ...])


def values_of(tensor: torch.Tensor) -> Values:
    """`tensor`, int64, int32 or float32, for a file of calls."""
    return Values(_NAMES[tensor.dtype], tuple(tensor.shape), tuple(tensor.flatten().tolist()))


def calls_text(
    programs: Sequence[ProgramRef], sessions: Sequence[int], calls: Iterable[tuple[int, Sequence[torch.Tensor]]]
) -> bytes:
    """The content of a file of calls.

    Args:
        programs: The programs.
        sessions: For each session, the index of its program.
        calls: For each call, in order, its session and its inputs.
    """
    lines = [CallLine(i, session, tuple(map(values_of, inputs))) for i, (session, inputs) in enumerate(calls)]
    header = Header(CALLS_FORMAT, VERSION, tuple(programs), tuple(sessions), len(lines))
    return b"".join(json.dumps(line).encode() + b"\n" for line in (asdict(header), *map(asdict, lines)))


def read_calls(path: Path) -> Calls:
    """A file of calls, as a driver reads it.

    Raises:
        DeviceFileError: It is not one, or not of this version.
        OSError: It cannot be read.
    """
    first, *others = path.read_bytes().splitlines() or [b""]
    try:
        header = _HEADER.validate_json(first)
        _require_version(header.version, "the suite ")
        lines = tuple(map(_LINE.validate_json, others))
    except ValidationError as error:
        raise DeviceFileError("calls-unreadable", f"the file of calls has a fault: {first_problem(error)}") from error
    if [line.call for line in lines] != list(range(header.calls)):
        raise DeviceFileError("calls-unreadable", f"the file of calls has not its {header.calls} calls in order")
    return Calls(header, lines)


def write_logits(path: Path, calls: bytes, programs: Sequence[str], answers: Mapping[int, Answer]) -> None:
    """Write a file of logits, as a driver does.

    Args:
        path: The file.
        calls: The content of the file of calls that it answers.
        programs: The SHA-256 of each program that was loaded, in the order of the header.
        answers: By the index of each call, its answer.
    """
    logits = {str(i): answer.contiguous() for i, answer in answers.items() if isinstance(answer, torch.Tensor)}
    refused = {str(i): asdict(answer) for i, answer in answers.items() if isinstance(answer, Refusal)}
    metadata = {
        "format": LOGITS_FORMAT,
        "version": str(VERSION),
        "calls": hashlib.sha256(calls).hexdigest(),
        "programs": json.dumps(list(programs)),
        "refused": json.dumps(refused),
    }
    save_file(logits, path, metadata)


def read_logits(path: Path, calls: bytes, programs: Sequence[str], number: int) -> list[Answer]:
    """The answers in a file of logits, in the order of the calls.

    Args:
        path: The file.
        calls: The content of the file of calls that it has to answer.
        programs: The SHA-256 of each program that has to be loaded, in the order of the header.
        number: How many calls there are.

    Raises:
        DeviceFileError: It does not exist, cannot be read, is of another version, is about other calls or programs,
            or has not one answer for each call.
    """
    if not path.is_file():
        raise DeviceFileError("no-logits", "wrote no file of logits")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            refused = _stated(metadata, calls, programs)
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it cannot be iterated
    except (SafetensorError, OSError) as error:
        raise DeviceFileError("logits-unreadable", f"wrote logits that are not safetensors: {error}") from error
    answers = [
        _answer(name, named.pop(name, None), refused.pop(name, None), number) for name in map(str, range(number))
    ]
    extra = sorted({*named, *refused})
    if extra:
        raise DeviceFileError("call-unknown", f"answered a call {extra[0]!r}, and the calls are 0 to {number - 1}")
    return answers


def _answer(name: str, logits: torch.Tensor | None, refusal: Refusal | None, number: int) -> Answer:
    if logits is None and refusal is None:
        raise DeviceFileError("call-missing", f"left out call {name} of {number}")
    if logits is not None and refusal is not None:
        raise DeviceFileError("call-twice", f"gave both logits and an error for call {name}")
    if refusal is not None:
        return refusal
    assert logits is not None
    if logits.dtype != torch.float32:
        raise DeviceFileError("wrong-dtype", f"gave logits of {logits.dtype} for call {name}, expected torch.float32")
    return logits


def _stated(metadata: Mapping[str, str], calls: bytes, programs: Sequence[str]) -> dict[str, Refusal]:
    """The refusals in a file's metadata, which has to be of this version, and about these calls and programs."""
    if metadata.get("format") != LOGITS_FORMAT:
        raise DeviceFileError("logits-unreadable", f"wrote the format {metadata.get('format')!r}, not {LOGITS_FORMAT}")
    _require_version(metadata.get("version"))
    if metadata.get("calls") != hashlib.sha256(calls).hexdigest():
        raise DeviceFileError("other-calls", f"answered a file of calls with the SHA-256 {metadata.get('calls')}")
    try:
        loaded = _HASHES.validate_json(metadata.get("programs", ""))
        refused = _REFUSALS.validate_json(metadata.get("refused", "{}"))
    except ValidationError as error:
        raise DeviceFileError("logits-unreadable", f"wrote metadata with a fault: {first_problem(error)}") from error
    if loaded != tuple(programs):
        raise DeviceFileError(
            "other-program", f"loaded a program with the SHA-256 {_short(loaded)}, expected {_short(programs)}"
        )
    return refused


def _short(hashes: Sequence[str]) -> str:
    return ", ".join(each[:12] for each in hashes) or "none"


def _require_version(version: Any, writer: str = "") -> None:
    if str(version) != str(VERSION):
        raise DeviceFileError("other-version", f"{writer}wrote version {version} of the protocol, expected {VERSION}")
