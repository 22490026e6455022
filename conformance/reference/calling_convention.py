"""The arguments that a model's forward needs so that it does not read the length of its cache.

Many models compute positions or a mask from the number of tokens in the cache. Where that number, a tensor, becomes a
slice bound or the length of an `arange`, Python reads its value, and `torch.export` cannot trace the read. Such models
accept the result as an argument instead. Configs say neither which argument that is nor from which number on a model
counts its positions (BERT from 0, RoBERTa from its padding id + 1), so both are found by trial.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel, StaticCache

from conformance.reference.cache import report_in_progress, set_position
from conformance.reference.settings import CacheSettings
from conformance.reference.transformers_api import cache_argument, parameters, takes_cache_position

#: Tokens of a trial: the first with an empty cache, the second with one token in it.
_TRIAL_LENGTH = 2
_INTEGERS = (torch.int64, torch.int32)
_COMPARISONS = tuple(getattr(torch.ops.aten, name).Scalar for name in ("eq", "ne", "lt", "le", "gt", "ge"))


@dataclass(frozen=True, slots=True)
class CallingConvention:
    """How to call a model's forward.

    Args:
        cache: The name of the cache's argument.
        first_position: The model's own number for the first position, or None to pass no `position_ids`.
        attention_mask: Whether to pass an `attention_mask` of ones over the whole cache; causality does the masking.
        integer_length: Whether the model reads the number of tokens in the cache even with these arguments, so that the
            cache has to report it as an integer. A symbolic one costs a check at each call of the program.
        complex_numbers: Whether the model computes with complex tensors, which have to become pairs of real ones.
        cache_position: Whether to pass the cache position on, because the cache does not count.
        in_progress: Whether the cache reports one token, whatever it holds. GIT asks in Python whether it is empty,
            which cannot be traced, and does nothing else with the number.
    """

    cache: str = "past_key_values"
    first_position: int | None = None
    attention_mask: bool = False
    integer_length: bool = False
    complex_numbers: bool = False
    cache_position: bool = False
    in_progress: bool = False

    def arguments(
        self,
        tokens: torch.Tensor,
        cache_position: torch.Tensor,
        cache: StaticCache,
        max_cache_len: int,
        name: str = "input_ids",
    ) -> dict[str, Any]:
        """The keyword arguments of one call of the model's forward.

        Args:
            tokens: Token ids, int64, shape [batch_size, seq], or embeddings, shape [batch_size, seq, hidden].
            cache_position: The tokens' positions in the cache, int64, shape [seq].
            cache: The cache.
            max_cache_len: Positions in the cache, in tokens.
            name: The argument for `tokens`, "input_ids" or "inputs_embeds".
        """
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


def find_convention(model: PreTrainedModel, cache: StaticCache, settings: CacheSettings) -> CallingConvention:
    """The convention with the fewest reads of the cache's length, of those that give the right logits.

    These are the logits with no further arguments, unless another convention alone agrees with the forward pass without
    cache: left to itself, Bamba counts each call's positions from 0.

    Args:
        model: The model, ready to trace.
        cache: An allocated cache; it is empty afterwards.
        settings: The cache's sizes.
    """
    plain = _plain(model)
    expected, observer = _trial(model, plain, cache, settings)
    without_cache = _without_cache(model, settings)
    is_right = without_cache is None or _close(expected, without_cache)
    best, observed_best = plain, observer
    for convention in _candidates(model):
        if observed_best.integers == 0 and is_right:
            break
        if convention == plain:
            continue  # tried above
        try:
            observed, observer = _trial(model, convention, cache, settings)
        except (RuntimeError, IndexError, ValueError, TypeError):
            continue  # the model does not accept these arguments
        if without_cache is not None and not is_right and _close(observed, without_cache):
            best, observed_best, expected, is_right = convention, observer, without_cache, True
        elif observer.integers < observed_best.integers and _close(observed, expected):
            best, observed_best = convention, observer
    cache.reset()
    return replace(best, integer_length=observed_best.integers > 0, complex_numbers=observed_best.complex_numbers)


def _close(observed: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(observed, expected, rtol=1e-4, atol=1e-4)


def _plain(model: PreTrainedModel) -> CallingConvention:
    """The convention with no arguments beyond those that the model always needs."""
    return CallingConvention(cache_argument(model), cache_position=takes_cache_position(model))


def _candidates(model: PreTrainedModel) -> Iterator[CallingConvention]:
    accepted = parameters(model)
    padding = getattr(model.config.get_text_config(decoder=True), "pad_token_id", None)
    firsts = [0] if padding is None else [0, padding + 1]
    masks = [False, True] if "attention_mask" in accepted else [False]
    for in_progress in (False, True):
        for mask in masks:
            for first in [*firsts, None] if "position_ids" in accepted else [None]:
                yield replace(_plain(model), first_position=first, attention_mask=mask, in_progress=in_progress)


def _trial(
    model: PreTrainedModel, convention: CallingConvention, cache: StaticCache, settings: CacheSettings
) -> tuple[torch.Tensor, _Observer]:
    """The logits of two tokens, [batch_size, 2, vocab], decoded one by one, and what was observed."""
    cache.reset()
    logits = []
    with _Observer() as observer, _reporting(cache, convention):
        for position, token in enumerate(_trial_tokens(model, settings)):
            cache_position = torch.tensor([position], device=model.device)
            set_position(cache, cache_position[0])
            logits.append(model(**convention.arguments(token, cache_position, cache, settings.max_cache_len)).logits)
    return torch.cat(logits, dim=1), observer


@contextmanager
def _reporting(cache: StaticCache, convention: CallingConvention) -> Iterator[None]:
    """Let the cache report its length as `convention` says, for a trial."""
    if not convention.in_progress:
        yield
        return
    report_in_progress(cache)
    try:
        yield
    finally:
        del cache.get_seq_length


def _without_cache(model: PreTrainedModel, settings: CacheSettings) -> torch.Tensor | None:
    """The same of one forward pass without cache; None where the model has none."""
    tokens = torch.cat(_trial_tokens(model, settings), dim=1)
    try:
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    except (RuntimeError, IndexError, ValueError, TypeError):
        return None
    return logits


def _trial_tokens(model: PreTrainedModel, settings: CacheSettings) -> list[torch.Tensor]:
    vocab = int(model.config.get_text_config(decoder=True).vocab_size)
    return [
        torch.full((settings.batch_size, 1), vocab - 1 - position, device=model.device)
        for position in range(_TRIAL_LENGTH)
    ]


class _Observer(TorchDispatchMode):
    """Observes a model while it runs.

    Attributes:
        integers: How many integers Python read from tensors, or compared with 0, as MPT's `max(0, 1 - length)` does. No
            other booleans: eager masking reads those, and XGLM the end of its table, neither of them while tracing.
        complex_numbers: Whether a result was a complex tensor.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.integers = 0
        self.complex_numbers = False
        self._compared: torch.Tensor | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.integers += args[0].dtype in _INTEGERS or args[0] is self._compared
        result = func(*args, **(kwargs or {}))
        if func in _COMPARISONS and args[1] == 0 and args[0].ndim == 0 and args[0].dtype in _INTEGERS:
            self._compared = result
        self.complex_numbers |= isinstance(result, torch.Tensor) and result.is_complex()
        return result
