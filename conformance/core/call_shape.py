"""The shape of a program's calls, if a user asks for less than the contract's whole cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallShape:
    """The shape of a program's calls.

    Args:
        last_logits: Whether a call returns only the logits of its last token, [batch, 1, vocab].
        prompt_chunk: The longest call in mode dynamic, in tokens; None for as long as the cache.
    """

    last_logits: bool = False
    prompt_chunk: int | None = None

    def longest(self, cache_length: int) -> int:
        """The longest call in mode dynamic, in tokens."""
        return min(self.prompt_chunk or cache_length, cache_length)

    def returned(self, count: int) -> slice:
        """Of `count` tokens in a call, those whose logits are returned."""
        return slice(count - 1, count) if self.last_logits and count else slice(count)


#: A call may be as long as the cache, and returns the logits of every token.
WHOLE = CallShape()
