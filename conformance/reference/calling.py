"""What to tell a model beside token ids and cache, so that it need not read it off the cache's counters.

Many models work out positions or a mask from the number of tokens in the cache. Where that number, a tensor, becomes a
slice bound or the length of an `arange`, Python reads its value, and `torch.export` cannot trace past the read. Such
models take the result as an argument instead. Which argument, and from which number on a model counts its positions
(BERT from 0, RoBERTa from its padding id + 1), is found by trying, since no config says it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel, StaticCache

from conformance.reference.settings import CacheSettings
from conformance.reference.transformers_api import cache_argument, parameters, takes_cache_position

#: Tokens of a trial: one to find the cache empty, one to find it filled.
_TRIAL_LENGTH = 2


@dataclass(frozen=True, slots=True)
class CallingConvention:
    """How to call a model's forward.

    Args:
        cache: The name of the argument that takes the cache.
        first_position: The model's own number for the first position, or None to pass no `position_ids`.
        attention_mask: Whether to pass an `attention_mask` of ones over the whole cache; causality does the masking.
        integer_length: Whether the model works from the number of tokens in the cache whatever it is told, so that the
            cache has to give it as an integer. One that tracing follows costs a check each time the program runs.
        complex_numbers: Whether the model computes with complex tensors, which have to be spelt out as pairs.
        cache_position: Whether to pass the cache position on, to a cache that does not count.
    """

    cache: str = "past_key_values"
    first_position: int | None = None
    attention_mask: bool = False
    integer_length: bool = False
    complex_numbers: bool = False
    cache_position: bool = False

    def arguments(
        self,
        tokens: torch.Tensor,
        cache_position: torch.Tensor,
        cache: StaticCache,
        max_cache_len: int,
        name: str = "input_ids",
    ) -> dict[str, Any]:
        """The keyword arguments of one call; `name` says what the `tokens` are, ids or "inputs_embeds"."""
        arguments: dict[str, Any] = {name: tokens, "use_cache": True, self.cache: cache}
        if self.cache_position:
            arguments["cache_position"] = cache_position
        if self.first_position is not None:
            positions = cache_position + self.first_position
            arguments["position_ids"] = positions.unsqueeze(0).expand(tokens.shape[0], -1)
        if self.attention_mask:
            shape = (tokens.shape[0], max_cache_len)
            arguments["attention_mask"] = torch.ones(shape, dtype=torch.long, device=tokens.device)
        return arguments


def settled_convention(model: PreTrainedModel, cache: StaticCache, settings: CacheSettings) -> CallingConvention:
    """The convention that changes no logits and reads least off the cache; the plainest of them.

    Args:
        model: The model, ready to trace.
        cache: An allocated cache, which is left empty.
        settings: Its sizes.
    """
    plain = _plain(model)
    expected, watch = _trial(model, plain, cache, settings)
    best, fewest = plain, watch.integers
    for convention in _conventions(model):
        if fewest == 0:
            break
        if convention == plain:
            continue  # tried above
        try:
            observed, watch = _trial(model, convention, cache, settings)
        except (RuntimeError, IndexError, ValueError, TypeError):
            continue  # the model does not take these arguments so
        if watch.integers < fewest and torch.allclose(observed, expected, rtol=1e-4, atol=1e-4):
            best, fewest = convention, watch.integers
    cache.reset()
    return replace(best, integer_length=fewest > 0, complex_numbers=watch.complex_numbers)


def _plain(model: PreTrainedModel) -> CallingConvention:
    return CallingConvention(cache_argument(model), cache_position=takes_cache_position(model))


def _conventions(model: PreTrainedModel) -> Iterator[CallingConvention]:
    taken = parameters(model)
    padding = getattr(model.config.get_text_config(decoder=True), "pad_token_id", None)
    firsts = [0] if padding is None else [0, padding + 1]
    masks = [False, True] if "attention_mask" in taken else [False]
    for mask in masks:
        for first in [*firsts, None] if "position_ids" in taken else [None]:
            yield replace(_plain(model), first_position=first, attention_mask=mask)


def _trial(
    model: PreTrainedModel, convention: CallingConvention, cache: StaticCache, settings: CacheSettings
) -> tuple[torch.Tensor, _Watch]:
    """The logits of two tokens, decoded one by one from an empty cache, and what was seen meanwhile."""
    cache.reset()
    vocab = int(model.config.get_text_config(decoder=True).vocab_size)
    logits = []
    with _Watch() as watch:
        for position in range(_TRIAL_LENGTH):
            token = torch.full((settings.batch_size, 1), vocab - 1 - position, device=model.device)
            where = torch.tensor([position], device=model.device)
            logits.append(model(**convention.arguments(token, where, cache, settings.max_cache_len)).logits)
    return torch.cat(logits), watch


class _Watch(TorchDispatchMode):
    """Watches a model run.

    Attributes:
        integers: How many integers Python read from tensors; booleans not, since only eager masking reads those.
        complex_numbers: Whether there was a complex tensor.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.integers = 0
        self.complex_numbers = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype in (torch.int64, torch.int32):
            self.integers += 1
        result = func(*args, **(kwargs or {}))
        self.complex_numbers |= isinstance(result, torch.Tensor) and result.is_complex()
        return result
