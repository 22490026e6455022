"""Verdicts, the stages they are reached at, and the exceptions that carry them from a stage or a check to a record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Protocol


class Verdict(StrEnum):
    """The result of a cell after a run. Only `PASS` is a pass."""

    PASS = "pass"
    FAIL = "fail"
    EXPECTED_FAILURE = "expected-failure"
    UNEXPECTED_PASS = "unexpected-pass"
    NOT_APPLICABLE = "not-applicable"
    NOT_RUN = "not-run"
    CRASH = "crash"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out-of-memory"
    HARNESS_ERROR = "harness-error"


#: The verdicts that let a run exit with 0, if it has others than `NOT_APPLICABLE`.
ACCEPTABLE = frozenset({Verdict.PASS, Verdict.EXPECTED_FAILURE, Verdict.NOT_APPLICABLE})


def judged_nothing(verdicts: Iterable[Verdict]) -> bool:
    """Whether no clause applied to anything. A run with these verdicts shows nothing, so it is not a pass."""
    return all(verdict is Verdict.NOT_APPLICABLE for verdict in verdicts)


class Stage(StrEnum):
    """The steps from a config to logits on the runtime, in order."""

    BUILD = "build"
    EAGER = "eager"
    EXPORT = "export"
    LOWER = "lower"
    EMIT = "emit"
    LOAD = "load"
    EXECUTE = "execute"


STAGES = tuple(Stage)


class CellFailedError(Exception):
    """A cell has failed, at `stage`; `signature` is the same for failures with the same cause."""

    def __init__(self, stage: Stage, signature: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage
        self.signature = f"{stage}:{signature}"


class StageError(CellFailedError):
    """A stage failed: the error that torch, Transformers, the subject or ExecuTorch raised, and the stage."""

    def __init__(self, stage: Stage, cause: BaseException) -> None:
        super().__init__(stage, _signature(cause), f"{type(cause).__name__}: {cause}")
        self.cause = cause


class ClauseViolationError(CellFailedError):
    """The observation of a check violates its clause.

    Args:
        stage: Where the difference shows.
        code: A short name for the kind of difference, such as "logits-differ"; the same for the same cause.
        observed: What was seen.
        expected: What should have been seen.
        script: The decode script that shows it, where there is one; its text is shown.
        relative_error: How far off, as a share of the logits' scale, where that is the difference.
        observed_logits, expected_logits: Those of the script's last call, where they are what differs.
    """

    def __init__(
        self,
        stage: Stage,
        code: str,
        *,
        observed: object,
        expected: object,
        script: object | None = None,
        relative_error: float | None = None,
        observed_logits: object | None = None,
        expected_logits: object | None = None,
    ) -> None:
        super().__init__(stage, code, f"observed {observed}, expected {expected}")
        self.observed = str(observed)
        self.expected = str(expected)
        self.script = script
        self.relative_error = relative_error
        self.observed_logits = observed_logits
        self.expected_logits = expected_logits


class ChildDiedError(Exception):
    """A process that a check had started died.

    Args:
        verdict: crash or timeout.
        stage: The stage that it had reached.
        message: How it died, and the end of its output.
    """

    def __init__(self, verdict: Verdict, stage: Stage, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict
        self.stage = stage


class NotApplicableError(Exception):
    """The clause does not apply to this cell; the message is the reason."""


class NotRunError(Exception):
    """The cell cannot be judged on this machine as it is; the message says what to install."""


class Memory(Protocol):
    """Bytes by index, such as an `mmap`."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, byte: int, /) -> None: ...


#: One byte: the number of the stage that is being done, from 1 on, or 0 for none. A judging process puts memory here
#: that outlives it; see `conformance.process.worker`.
STAGE_BYTE: ContextVar[Memory] = ContextVar("STAGE_BYTE")


@contextmanager
def at(stage: Stage) -> Iterator[None]:
    """Name the stage of whatever fails inside. An exporter that ends the interpreter fails too."""
    byte = STAGE_BYTE.get(bytearray(1))
    before, byte[0] = byte[0], STAGES.index(stage) + 1
    try:
        yield
    except (CellFailedError, NotApplicableError, NotRunError):
        raise
    except (Exception, SystemExit) as error:
        raise StageError(stage, error) from error
    finally:
        byte[0] = before


#: A signature has this much of an exception's text.
SIGNATURE_CHARS = 90


def _signature(cause: BaseException) -> str:
    """The exception and its first line without what varies; of ExecuTorch's, the error code."""
    whole = str(cause).strip()
    inner = re.search(r"got \w+\(['\"](.+)", whole)  # torch wraps what a traced operator raised
    first = inner.group(1) if inner else next(iter(whole.splitlines()), "")
    code = re.search(r"error (0x[0-9a-fA-F]+)", first)
    text = code.group(0) if code else re.sub(r"0x[0-9a-f]+|\d+", "#", first)[:SIGNATURE_CHARS].strip()
    return f"{type(cause).__name__}:{text}"
