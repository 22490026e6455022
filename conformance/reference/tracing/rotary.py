"""Rotary frequencies that depend on the length of the text, fixed where the cache is too short for them to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel

_DYNAMIC = "dynamic"


@contextmanager
def fixed_frequencies(model: PreTrainedModel, max_cache_len: int) -> Iterator[None]:
    """Treat rotary embeddings of the dynamic kind as fixed ones; undone on exit.

    At each call they compare the last position with the length that the model was trained for, in Python
    (`dynamic_rope_update` in Transformers), which `torch.export` cannot trace. A cache of at most that length never
    reaches it. With a longer cache they stay dynamic: keys that were rotated before the frequencies changed remain in
    the cache, so decoding with it is wrong in any case.

    Args:
        model: The last position that its embeddings computed lies within that length, so they hold their first
            frequencies.
        max_cache_len: Positions in the cache, in tokens.
    """
    originals: list[tuple[Any, Any]] = []
    for module in model.modules():
        rope_type = getattr(module, "rope_type", None)
        if rope_type and max_cache_len <= getattr(module, "original_max_seq_len", 0):
            originals.append((module, rope_type))
    try:
        for module, rope_type in originals:
            module.rope_type = _fixed(rope_type)
        yield
    finally:
        for module, rope_type in originals:
            module.rope_type = rope_type


def _fixed(rope_type: str | dict[str, str]) -> str | dict[str, str]:
    """The kind without its updates; models with several kinds of layers have a kind for each."""
    if isinstance(rope_type, dict):
        return {layers: "default" if _DYNAMIC in kind else kind for layers, kind in rope_type.items()}
    return "default" if _DYNAMIC in rope_type else rope_type
