"""Batch size and cache length, from the arguments or the model's generation config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from conformance.reference.errors import ModelNotExportableError
from conformance.reference.transformers_api import parameters

#: How a program computes attention and updates its cache: by ATen's operators, or by ExecuTorch's own.
ATTENTIONS = PORTABLE, CUSTOM = "portable", "custom"


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The two sizes that fix the shape of a static cache: rows, and positions (tokens) per row."""

    batch_size: int
    max_cache_len: int


def cache_settings(
    model: PreTrainedModel, batch_size: int | None = None, max_cache_len: int | None = None
) -> CacheSettings:
    """The cache's sizes; an argument overrides `model.generation_config.cache_config`.

    Args:
        model: Its generation config must ask for the "static" cache implementation.
        batch_size: Rows per call.
        max_cache_len: Positions in the cache, in tokens.

    Raises:
        ModelNotExportableError: The model has no generation config, does not cache, does not ask for the "static"
            cache implementation, or a size is missing or not a positive integer.
    """
    generation_config = getattr(model, "generation_config", None)
    if generation_config is None:
        raise ModelNotExportableError(
            "no-static-cache",
            f"{type(model).__name__}.generation_config is None; a static-cache export reads its settings there: set "
            "`model.generation_config = GenerationConfig(use_cache=True, cache_implementation='static', ...)`",
        )
    if not generation_config.use_cache:
        raise ModelNotExportableError(
            "no-static-cache",
            f"generation_config.use_cache is {generation_config.use_cache!r}; decoding with a static cache needs "
            "`generation_config.use_cache = True`",
        )
    if generation_config.cache_implementation != "static":
        raise ModelNotExportableError(
            "no-static-cache",
            f"generation_config.cache_implementation is {generation_config.cache_implementation!r}, not 'static'; set "
            "`generation_config.cache_implementation = 'static'`",
        )
    cache_config = generation_config.cache_config or {}
    return CacheSettings(
        batch_size=_size("batch_size", batch_size, cache_config),
        max_cache_len=_size("max_cache_len", max_cache_len, cache_config),
    )


def logits_returned(model: PreTrainedModel, logits_to_keep: int) -> int:
    """`logits_to_keep`, if the model can be asked for it.

    Raises:
        ModelNotExportableError: It is not a number of tokens, or the model's forward does not take it.
    """
    if isinstance(logits_to_keep, bool) or not isinstance(logits_to_keep, int) or logits_to_keep < 0:
        raise ModelNotExportableError(
            "invalid-logits-to-keep",
            f"logits_to_keep is {logits_to_keep!r}; it must be 0, for the logits of all tokens, or a positive integer",
        )
    if logits_to_keep and "logits_to_keep" not in parameters(model):
        raise ModelNotExportableError(
            "invalid-logits-to-keep",
            f"{type(model).__name__}.forward has no argument logits_to_keep and computes the logits of all tokens; "
            "leave logits_to_keep at 0",
        )
    return logits_to_keep


def _size(name: str, argument: int | None, cache_config: Mapping[str, Any]) -> int:
    value = cache_config.get(name) if argument is None else argument
    if value is None:
        raise ModelNotExportableError(
            "invalid-cache-size",
            f"{name} is not given; pass it as an argument or in `generation_config.cache_config[{name!r}]`",
        )
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelNotExportableError("invalid-cache-size", f"{name} is {value!r}; it must be a positive integer")
    return value
