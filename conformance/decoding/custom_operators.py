"""ExecuTorch's own operators beside the portable ones, which a process has to load before it exports or runs them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Protocol

from conformance.core.verdicts import NotRunError


@dataclass(frozen=True, slots=True)
class Library:
    """Operators that come in a library of their own.

    Args:
        namespace: How their names begin, in a program's bytes too.
        module: What registers them with torch and with ExecuTorch's runtime when it is imported.
        operators: Those that the suite's programs call, for messages.
    """

    namespace: str
    module: str
    operators: str


#: For attention and caches of language models.
CUSTOM_ATTENTION = Library(
    "llama::", "executorch.extension.llm.custom_ops.custom_ops", "llama::custom_sdpa and llama::update_cache"
)
#: For what is quantised and not delegated, such as embeddings.
QUANTISED = Library("quantized_decomposed::", "executorch.kernels.quantized", "quantized_decomposed::embedding_byte")


class Searchable(Protocol):
    """Bytes, or a file that is mapped into memory."""

    def find(self, sub: bytes, /) -> int:
        """Where `sub` begins first; -1 if nowhere."""


def register_operators(library: Library) -> None:
    """Register its operators in this process, and its children; may be repeated.

    Raises:
        NotRunError: The installed ExecuTorch lacks the library.
    """
    try:
        importlib.import_module(library.module)
    except (ImportError, OSError, AssertionError) as error:  # the last one if it finds no library
        raise NotRunError(f"this ExecuTorch has no library of the operators {library.operators}: {error}") from error


def register_operators_of(program: Searchable) -> None:
    """The same of each library that a `.pte` file with these bytes may call an operator of.

    Raises:
        NotRunError: The installed ExecuTorch lacks it.
    """
    for library in (CUSTOM_ATTENTION, QUANTISED):
        if program.find(library.namespace.encode()) >= 0:
            register_operators(library)
