"""ExecuTorch's own operators for language models, which a process has to load before it exports or runs them."""

from __future__ import annotations

from typing import Protocol

from conformance.core.verdicts import NotRunError

#: How the operators' names begin in a program's bytes.
_NAMESPACE = b"llama::"


class Searchable(Protocol):
    """Bytes, or a file that is mapped into memory."""

    def find(self, sub: bytes, /) -> int:
        """Where `sub` begins first; -1 if nowhere."""


def register_operators() -> None:
    """Register them with torch and with ExecuTorch's runtime in this process, and its children; may be repeated.

    Raises:
        NotRunError: The installed ExecuTorch lacks their library.
    """
    try:
        from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401 - registers them
    except (ImportError, OSError, AssertionError) as error:  # the last one if it finds no library
        raise NotRunError(
            f"this ExecuTorch has no library of the operators llama::custom_sdpa and llama::update_cache: {error}"
        ) from error


def register_operators_of(program: Searchable) -> None:
    """The same, if a `.pte` file with these bytes may call one of them.

    Raises:
        NotRunError: The installed ExecuTorch lacks their library.
    """
    if program.find(_NAMESPACE) >= 0:
        register_operators()
