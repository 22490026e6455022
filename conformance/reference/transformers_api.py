"""What differs between the versions of Transformers that this works with, 4.57 to 5.24: all of it is here.

A version is known by what it has, not by its number: patches and development versions then fall where they belong. What
a later version calls otherwise has its later name here too.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, cache_utils, masking_utils

try:
    from transformers import PreTrainedConfig
except ImportError:  # 5.0 wrote the T large (https://github.com/huggingface/transformers/issues/39202)
    from transformers import PretrainedConfig as PreTrainedConfig

try:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
except ImportError:  # 4.57 has one implementation of experts, a loop, and nowhere to register another
    ALL_EXPERTS_FUNCTIONS = None  # type: ignore[assignment]  # mypy reads the installed version

__all__ = [
    "PreTrainedConfig",
    "cache_argument",
    "can_scan",
    "declared_keys",
    "experts_by_part",
    "experts_of",
    "full_length",
    "layer_types",
    "lets_choose_experts",
    "mark_mid_sequence",
    "parameters",
    "register_experts",
    "sliding_windows",
    "sums_up",
    "takes_cache_position",
    "traceable_masks",
]

#: Attributes in which layers keep what sums up the past.
_SUMS = ("conv_states", "recurrent_states")
#: What makes a mask of a function by `torch.vmap`: in 4.57, and from 5.0 on.
_BY_VMAP = ("_vmap_for_bhqkv", "_vmap_expansion_sdpa")


def parameters(model: PreTrainedModel) -> Mapping[str, inspect.Parameter]:
    """The parameters of the model's forward, by name, whatever decorators it has."""
    return inspect.signature(model.forward).parameters


def cache_argument(model: PreTrainedModel) -> str:
    """What the model's forward calls its cache.

    5.24 calls it `cache`, and takes the earlier names until 5.40; a `cache` that is no `Cache`, as of XLM, was always
    there. Up to 5.23 the Mamba family takes `cache_params`; it accepts `past_key_values` too, ignores it, and decodes
    without any state.
    """
    taken = parameters(model)
    if "cache" in taken and "Cache" in str(taken["cache"].annotation):
        return "cache"
    return "cache_params" if "cache_params" in taken else "past_key_values"


def takes_cache_position(model: PreTrainedModel) -> bool:
    """Whether the forward has to be told where in the cache its tokens go.

    In 4.57 caches do not count their positions, and forwards take `cache_position`. Since
    https://github.com/huggingface/transformers/pull/44181 and those that followed it (44330, 44759) caches count.
    """
    return "cache_position" in parameters(model)


def layer_types(config: PreTrainedConfig) -> list[str]:
    """Transformers' type of each cache layer of a decoder's config.

    Raises:
        AttributeError: The config does not say how many layers there are.
        ValueError: It has layers for which there is no cache.
    """
    known: Callable[[PreTrainedConfig], tuple[list[str], Any]] | None
    known = getattr(cache_utils, "get_layer_types_and_kwargs", None)
    return list(known(config)[0]) if known else _layer_types(config)


def _layer_types(config: Any) -> list[str]:
    """The same as `StaticCache` of 5.10 and before works it out in its `__init__`."""
    count = config.num_hidden_layers
    named = getattr(config, "layer_types", None)
    if named is None:
        windows = {"sliding_window": "sliding_attention", "attention_chunk_size": "chunked_attention"}
        kinds = [kind for name, kind in windows.items() if getattr(config, name, None) is not None]
        named = [kinds[0] if kinds else "full_attention"] * count
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    return list(named[: len(named) - shared])


def full_length(layer: Any, max_cache_len: int) -> Any:
    """A layer of `max_cache_len` positions in place of one that keeps a window; any other layer as it is."""
    both: Any = getattr(cache_utils, "LinearAttentionAndStaticSlidingWindowAttentionLayer", None)
    if both is not None and isinstance(layer, both):  # from 5.14 on
        whole: Any = cache_utils.LinearAttentionAndStaticFullAttentionLayer
        return whole(max_cache_len, number_of_states=layer.number_of_states)
    if isinstance(layer, cache_utils.StaticSlidingWindowLayer):
        return cache_utils.StaticLayer(max_cache_len)
    return layer


def sliding_windows(layers: Iterable[Any]) -> list[int]:
    """How many positions each layer keeps that forgets those before; the method that says it came with 5.14."""
    return [layer.max_cache_len for layer in layers if getattr(layer, "is_sliding", False)]


def sums_up(layer: object, attribute: str) -> bool:
    """Whether the layer keeps in `attribute` what sums up the past. 4.57 has no such layers."""
    linear: Any = getattr(cache_utils, "LinearAttentionCacheLayerMixin", ())
    return attribute in _SUMS and isinstance(layer, linear)


def mark_mid_sequence(layers: Iterable[Any]) -> None:
    """Make layers that sum up the past take what they hold for the state after some tokens."""
    for layer in layers:
        held = getattr(layer, "has_previous_state", None)
        if held is not None:  # one flag in 5.10, later one for each of the layer's states
            layer.has_previous_state = dict.fromkeys(held, True) if isinstance(held, dict) else True


def can_scan(cache: object) -> bool:
    """Whether the cache hands out recurrent states by a method, as models ask for them from 5.21 on."""
    return hasattr(cache, "get_recurrent_state")


@contextmanager
def traceable_masks() -> Iterator[None]:
    """Let attention masks be traced by broadcasting indices, as 5.0 and later mostly do; on leaving, as they were.

    4.57 calls `torch.vmap` for all masks, and later versions for those to which a model adds a function of its own, as
    Falcon does up to 5.14. `torch.export` (torch 2.13) leaves tensors of it behind in programs; each call of one then
    fails with "your tensor may have escaped from inside a function being vmapped".
    """
    kept = {name: getattr(masking_utils, name) for name in _BY_VMAP if hasattr(masking_utils, name)}
    for name in kept:
        setattr(masking_utils, name, _broadcast)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(masking_utils, name, function)


def _broadcast(mask_function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A function of rank-1 indices [batch], [heads], [queries], [keys] to the mask, bool, with all four dimensions."""

    def mask(*indices: torch.Tensor) -> torch.Tensor:
        apart = torch.meshgrid(*indices, indexing="ij")
        return mask_function(*apart)

    return mask


def lets_choose_experts(model: PreTrainedModel) -> bool:
    """Whether the implementation of this very module's experts can be chosen. In 4.57 there is no choice."""
    return bool(getattr(model, "_can_set_experts_implementation", bool)())


def experts_of(config: PreTrainedConfig) -> str | None:
    """The implementation of experts that a config names; None where there is no choice."""
    named: str | None = getattr(config, "_experts_implementation", None)
    return named


def experts_by_part(model: PreTrainedModel) -> dict[str, str | None]:
    """The same for a model and, by name, each of its sub-configs; `""` is the model's own.

    What `get_experts_implementation` says, which 5.10 has not yet, though it has `set_experts_implementation`.
    """
    config: Any = model.config
    parts = {"": config, **{name: getattr(config, name, None) for name in config.sub_configs}}
    return {name: experts_of(part) for name, part in parts.items() if part is not None}


def register_experts(name: str, function: Callable[..., Any]) -> None:
    """Make an implementation of experts known by `name`, where there is a choice; doing so again changes nothing."""
    if ALL_EXPERTS_FUNCTIONS is not None:
        ALL_EXPERTS_FUNCTIONS.register(name, function)


def declared_keys(kind: type[PreTrainedConfig]) -> set[str]:
    """The keys that a config class takes by name.

    Configs are dataclasses, but for 4.57, where the keys are what `__init__` of the class and of those above it takes.
    """
    if dataclasses.is_dataclass(kind):
        return {field.name for field in dataclasses.fields(kind)}
    initialisers = [vars(part)["__init__"] for part in kind.__mro__[:-1] if "__init__" in vars(part)]
    taken = (parameter for init in initialisers for parameter in inspect.signature(init).parameters.values())
    return {parameter.name for parameter in taken if parameter.kind is not inspect.Parameter.VAR_KEYWORD} - {"self"}
