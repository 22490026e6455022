"""Errors about a user's input. Each kind has a stable code, which docs/reference/errors.md lists."""

from __future__ import annotations

from pathlib import Path
from typing import Self


class InputError(ValueError):
    """An input of the user cannot be used.

    Args:
        code: The kind of mistake, such as `invalid-shard`. It stays when the message is reworded.
        message: What is wrong, and the next step.
    """

    def __init__(self, code: str, message: object) -> None:
        super().__init__(code, str(message))
        self.code = code
        self.message = str(message)

    def __str__(self) -> str:
        return self.message

    @classmethod
    def of_file(cls, path: Path | str, error: OSError) -> Self:
        """The error for a file that cannot be read or written."""
        return cls("file-error", f"{path}: {error.strerror or error}")


def code_of(error: BaseException | None) -> str:
    """The code of `error`, or of the error that caused it; empty if none has one."""
    while error is not None:
        code = getattr(error, "code", None)
        if isinstance(code, str) and not isinstance(error, SystemExit):
            return code
        error = error.__cause__
    return ""


def with_code(error: BaseException) -> str:
    """`[invalid-shard] '3/2' is not a valid shard; ...`, or only the message if no code is known."""
    code = code_of(error)
    return f"[{code}] {error}" if code else str(error)
