"""Rotary frequencies that depend on the length of the text, as constants where no text in the cache is long enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel

_DYNAMIC = "dynamic"


@contextmanager
def settled_frequencies(model: PreTrainedModel, max_cache_len: int) -> Iterator[None]:
    """Let rotary embeddings of the dynamic kind be traced as of a fixed one; on leaving, as they were.

    At each call they compare the last position with the length that the model was trained for, in Python
    (`dynamic_rope_update` in Transformers), which `torch.export` cannot trace past. A cache of at most that length
    never gets there. With a longer one they are left as they are: keys that were rotated before the frequencies changed
    stay in the cache, and no decoding with one is right.

    Args:
        model: Its embeddings have seen a position within that length last, so that their frequencies are the first.
        max_cache_len: Positions in the cache, in tokens.
    """
    settled: list[tuple[Any, Any]] = []
    for module in model.modules():
        kinds, longest = getattr(module, "rope_type", None), getattr(module, "original_max_seq_len", 0)
        if kinds and max_cache_len <= longest:
            settled.append((module, kinds))
    try:
        for module, kinds in settled:
            module.rope_type = (
                {key: _fixed(kind) for key, kind in kinds.items()} if isinstance(kinds, dict) else _fixed(kinds)
            )
        yield
    finally:
        for module, kinds in settled:
            module.rope_type = kinds


def _fixed(kind: str) -> str:
    return "default" if _DYNAMIC in kind else kind
