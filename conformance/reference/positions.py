"""Where a model's positions end, found by decoding at the last position of its cache.

A table has a row for each position and none beyond: learned embeddings, sinusoids computed once, ALiBi's biases.
Configs do not say how many positions that makes: the number has many names, and OPT counts from 2, RoBERTa from its
padding id + 1. Nor does a model always fail past the last row. It may read another row, or enlarge the table in Python,
which a program cannot do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel, StaticCache

from conformance.reference.cache import allocate_cache, report_in_progress, set_integer_length, set_position
from conformance.reference.calling_convention import CallingConvention, find_convention
from conformance.reference.errors import PositionsEndError
from conformance.reference.settings import CacheSettings
from conformance.reference.tracing import ready_to_run

#: What torch and models raise where a table has no such row.
_ERRORS = (RuntimeError, IndexError, ValueError, TypeError)
#: Positions at which an index has to follow the position before it counts as one: a router's choices do not.
_CONFIRMED_AT = range(2, 8)


def prepared_cache(model: PreTrainedModel, settings: CacheSettings) -> tuple[StaticCache, CallingConvention]:
    """An allocated, empty cache with which `model` decodes up to its last position, and how to call the model.

    Args:
        model: The model, which is unchanged afterwards.
        settings: The cache's sizes.

    Raises:
        PositionsEndError: The model's positions end before the cache does.
    """
    try:
        return _prepared(model, settings)
    except _ERRORS as error:
        longest = _longest(model, settings)
        if longest is None:  # whatever it fails at is not the length
            return _prepared(model, settings, to_the_end=False)
        raise PositionsEndError(type(model).__name__, settings.max_cache_len, longest) from error


def _longest(model: PreTrainedModel, settings: CacheSettings) -> int | None:
    """The most positions with which `model` decodes, fewer than `settings` has; None if it does not even with two."""
    least, most = min(2, settings.max_cache_len - 1), settings.max_cache_len
    if least == 0 or not _decodes(model, settings.batch_size, least):
        return None
    while most - least > 1:
        middle = (least + most) // 2
        if _decodes(model, settings.batch_size, middle):
            least = middle
        else:
            most = middle
    return least


def _decodes(model: PreTrainedModel, batch_size: int, max_cache_len: int) -> bool:
    try:
        _prepared(model, CacheSettings(batch_size, max_cache_len))
    except _ERRORS:
        return False
    return True


def _prepared(
    model: PreTrainedModel, settings: CacheSettings, *, to_the_end: bool = True
) -> tuple[StaticCache, CallingConvention]:
    with ready_to_run(model, settings.max_cache_len), _same_sizes(model):
        cache = allocate_cache(model, settings)
        convention = find_convention(model, cache, settings)
        if to_the_end:
            _decode_to_the_end(model, cache, convention, settings)
        cache.reset()
    return cache, convention


def _decode_to_the_end(
    model: PreTrainedModel, cache: StaticCache, convention: CallingConvention, settings: CacheSettings
) -> None:
    """Raises IndexError unless each lookup that follows the position at the first ones follows it at the last one."""

    def indices(position: int) -> list[int | None]:
        return _indices(model, cache, convention, settings, range(position, position + 1))

    last = settings.max_cache_len - 1
    try:
        at_last = indices(last)
    except _ERRORS:
        # A model may need what came before (Qwen4's indexer reads the past's rotations): the whole text at once.
        _indices(model, cache, convention, settings, range(settings.max_cache_len))
        return
    at_0, at_1 = indices(0), indices(min(1, last))
    if not len(at_last) == len(at_0) == len(at_1):
        return
    suspects = [
        (place, start)
        for place, (start, following, end) in enumerate(zip(at_0, at_1, at_last, strict=True))
        if start is not None and following == start + 1 and end != start + last
    ]
    for position in _CONFIRMED_AT if suspects else ():
        found = indices(position) if position < last else []
        suspects = [(place, start) for place, start in suspects if found[place : place + 1] == [start + position]]
    if suspects:
        raise IndexError(f"position {last} reads the row of another one")


def _indices(
    model: PreTrainedModel, cache: StaticCache, convention: CallingConvention, settings: CacheSettings, positions: range
) -> list[int | None]:
    """The index of each lookup while a token is decoded at each of `positions`; None for a lookup with several."""
    cache_position = torch.arange(positions.start, positions.stop, device=model.device)
    cache.reset()
    set_position(cache, cache_position[0])
    if convention.in_progress:
        report_in_progress(cache)
    elif convention.integer_length:
        set_integer_length(cache, cache_position[0], settings.max_cache_len)
    config = model.config.get_text_config(decoder=True)
    ids = (int(config.vocab_size) - 1, int(config.vocab_size) - 2)
    ordinary = ids[getattr(config, "pad_token_id", None) == ids[0]]  # RoBERTa gives padding no position
    tokens = torch.full((settings.batch_size, len(positions)), ordinary, device=model.device)
    lookups = _Lookups()
    with lookups:
        arguments = convention.arguments(tokens, cache_position, cache, settings.max_cache_len)
        logits: torch.Tensor = model(**arguments).logits
    if logits.shape[:2] != tokens.shape:  # a slice past the end is empty, and broadcasts
        raise IndexError(f"position {positions[-1]} has no row")
    return lookups.indices


@contextmanager
def _same_sizes(model: nn.Module) -> Iterator[None]:
    """Raises IndexError if a tensor of the model gets another shape; each of these is restored."""
    holders = [holder for module in model.modules() for holder in (module._buffers, vars(module))]
    tensors = [
        (holder, name, value) for holder in holders for name, value in holder.items() if isinstance(value, torch.Tensor)
    ]
    changed = []
    try:
        yield
    finally:
        for holder, name, value in tensors:
            held: Any = holder.get(name)
            if isinstance(held, torch.Tensor) and held.shape != value.shape:
                changed.append(f"{name} grew from {list(value.shape)} to {list(held.shape)}")
                holder[name] = value
    if changed:
        raise IndexError(changed[0])


class _Lookups(TorchDispatchMode):
    """Observes lookups in tables while a model runs.

    Attributes:
        indices: Of each lookup in turn, the one index that all its elements have; None if they differ.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.indices: list[int | None] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        place = _INDEX.get(func)
        if place is not None:
            given = args[place] if isinstance(args[place], list | tuple) else [args[place]]
            self.indices += [_only(index) for index in given if index is not None]
        return func(*args, **(kwargs or {}))


#: Operators that look rows up, and which of their arguments says which.
_INDEX = {
    torch.ops.aten.embedding.default: 1,
    torch.ops.aten.gather.default: 2,
    torch.ops.aten.index.Tensor: 1,
    torch.ops.aten.index_select.default: 2,
    torch.ops.aten.select.int: 2,
}


def _only(index: torch.Tensor | int) -> int | None:
    if not isinstance(index, torch.Tensor):
        return index
    if index.is_floating_point() or index.dtype is torch.bool or index.numel() == 0:
        return None
    first = index.flatten()[0]
    return int(first) if bool((index == first).all()) else None
