"""All differences between the supported versions of Transformers, 4.57 to 5.24.

Code here tests for what a version has, not for its number, so patches and development versions are treated correctly.
What was renamed has its later name here.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, cache_utils
from transformers.cache_utils import StaticLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as ATTENTION_FUNCTIONS

try:
    from transformers import PreTrainedConfig
except ImportError:  # 5.0 wrote the T large (https://github.com/huggingface/transformers/issues/39202)
    from transformers import PretrainedConfig as PreTrainedConfig

try:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
except ImportError:  # 4.57 has one implementation of experts, a loop, and nowhere to register another
    ALL_EXPERTS_FUNCTIONS = None  # type: ignore[assignment]  # mypy reads the installed version

__all__ = [
    "ATTENTION_FUNCTIONS",
    "MASKS_BY_VMAP",
    "PreTrainedConfig",
    "StaticLayer",
    "cache_argument",
    "can_scan",
    "declared_keys",
    "experts_by_part",
    "experts_of",
    "full_length",
    "is_recurrent_state",
    "layer_types",
    "lets_choose_experts",
    "mark_mid_sequence",
    "original_length",
    "parameters",
    "register_experts",
    "rope_frequencies",
    "sliding_windows",
    "takes_cache_position",
]

#: Attributes of layers with convolution or recurrent state.
_RECURRENT_STATES = ("conv_states", "recurrent_states")
#: Functions of `transformers.masking_utils` that compute a mask by `torch.vmap`: in 4.57, and from 5.0 on.
MASKS_BY_VMAP = ("_vmap_for_bhqkv", "_vmap_expansion_sdpa")


def parameters(model: PreTrainedModel) -> Mapping[str, inspect.Parameter]:
    """The parameters of the model's forward, by name, also if it is decorated."""
    return inspect.signature(model.forward).parameters


def cache_argument(model: PreTrainedModel) -> str:
    """The name of the cache's argument of the model's forward.

    5.24 renamed it to `cache`, and accepts the earlier names until 5.40. A few models, such as XLM, have always had an
    argument `cache` of another type, so the annotation decides. Up to 5.23 the Mamba family has `cache_params`; it
    accepts `past_key_values` too, ignores it, and decodes without any state.
    """
    accepted = parameters(model)
    if "cache" in accepted and "Cache" in str(accepted["cache"].annotation):
        return "cache"
    return "cache_params" if "cache_params" in accepted else "past_key_values"


def takes_cache_position(model: PreTrainedModel) -> bool:
    """Whether the model's forward needs the positions of its tokens in the cache.

    In 4.57 caches do not count their positions, and forwards need `cache_position`. Since
    https://github.com/huggingface/transformers/pull/44181 and those that followed it (44330, 44759) caches count.
    """
    return "cache_position" in parameters(model)


def layer_types(config: PreTrainedConfig) -> list[str]:
    """Transformers' type of each cache layer of a decoder's config.

    Raises:
        AttributeError: The config has no number of layers.
        ValueError: It has layers of a type that has no cache.
    """
    of_config: Callable[[PreTrainedConfig], tuple[list[str], Any]] | None
    of_config = getattr(cache_utils, "get_layer_types_and_kwargs", None)
    return list(of_config(config)[0]) if of_config else _layer_types(config)


def _layer_types(config: Any) -> list[str]:
    """The same, as computed by the `__init__` of `StaticCache` in 5.10 and before."""
    count = config.num_hidden_layers
    types = getattr(config, "layer_types", None)
    if types is None:
        windows = {"sliding_window": "sliding_attention", "attention_chunk_size": "chunked_attention"}
        windowed = [layer_type for name, layer_type in windows.items() if getattr(config, name, None) is not None]
        types = [windowed[0] if windowed else "full_attention"] * count
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    return list(types[: len(types) - shared])


def full_length(layer: Any, max_cache_len: int) -> Any:
    """A layer of `max_cache_len` positions in place of one that keeps a window; any other layer unchanged."""
    sliding: Any = getattr(cache_utils, "LinearAttentionAndStaticSlidingWindowAttentionLayer", None)
    if sliding is not None and isinstance(layer, sliding):  # from 5.14 on
        full: Any = cache_utils.LinearAttentionAndStaticFullAttentionLayer
        return full(max_cache_len, number_of_states=layer.number_of_states)
    if isinstance(layer, cache_utils.StaticSlidingWindowLayer):
        return cache_utils.StaticLayer(max_cache_len)
    return layer


def sliding_windows(layers: Iterable[Any]) -> list[int]:
    """The window, in tokens, of each layer that has one; only 5.14 and later have a method for it."""
    return [layer.max_cache_len for layer in layers if getattr(layer, "is_sliding", False)]


def is_recurrent_state(layer: object, attribute: str) -> bool:
    """Whether the layer's `attribute` is convolution or recurrent state. 4.57 has no such layers."""
    linear: Any = getattr(cache_utils, "LinearAttentionCacheLayerMixin", ())
    return attribute in _RECURRENT_STATES and isinstance(layer, linear)


def mark_mid_sequence(layers: Iterable[Any]) -> None:
    """Set the flag of layers with convolution or recurrent state by which they use their state.

    The flag picks the code path while tracing. Unset, the trace would be of a first call, which ignores the state, and
    the program would ignore it in every later call. With the state of `cache.initial_state`, the later path is right
    from position 0 on.
    """
    for layer in layers:
        flag = getattr(layer, "has_previous_state", None)
        if flag is not None:  # one flag in 5.10, later one for each of the layer's states
            layer.has_previous_state = dict.fromkeys(flag, True) if isinstance(flag, dict) else True


def can_scan(cache: object) -> bool:
    """Whether the cache has the method by which models read recurrent states from 5.21 on."""
    return hasattr(cache, "get_recurrent_state")


def lets_choose_experts(model: PreTrainedModel) -> bool:
    """Whether the implementation of this module's own experts can be chosen. In 4.57 it cannot."""
    return bool(getattr(model, "_can_set_experts_implementation", bool)())


def experts_of(config: PreTrainedConfig) -> str | None:
    """A config's implementation of experts; None if it has no such choice."""
    implementation: str | None = getattr(config, "_experts_implementation", None)
    return implementation


def experts_by_part(model: PreTrainedModel) -> dict[str, str | None]:
    """`experts_of` the model's config, under `""`, and of each of its sub-configs, by name.

    `get_experts_implementation` returns the same, but 5.10 has only `set_experts_implementation`.
    """
    config: Any = model.config
    parts = {"": config, **{name: getattr(config, name, None) for name in config.sub_configs}}
    return {name: experts_of(part) for name, part in parts.items() if part is not None}


def register_experts(name: str, function: Callable[..., Any]) -> None:
    """Register an implementation of experts as `name`, if Transformers has a choice of them; may be repeated."""
    if ALL_EXPERTS_FUNCTIONS is not None:
        ALL_EXPERTS_FUNCTIONS.register(name, function)


def original_length(rotary: Any, kind: str, layer_type: str | None) -> int:
    """The length, in tokens, past which a rotary embedding of a kind that changes has other frequencies.

    Args:
        rotary: The module.
        kind: Its `rope_type`, for this type of layers if it has several.
        layer_type: The type of layers; None for a module with one kind.
    """
    if kind != "longrope":
        return int(rotary.original_max_seq_len)
    config = rotary.config
    rope = getattr(config, "rope_parameters", None) or {}  # 4.57 has none
    of_layers = rope if layer_type is None else rope[layer_type]
    length = of_layers.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    return int(length or config.max_position_embeddings)


def rope_frequencies(rotary: Any, kind: str, layer_type: str | None, length: int | torch.Tensor) -> torch.Tensor:
    """A rotary embedding's frequencies for a text of `length` tokens, float32; 4.57 knows no types of layers."""
    layers = {} if layer_type is None else {"layer_type": layer_type}
    device = next(rotary.buffers()).device
    initialise: Callable[..., Any] = ROPE_INIT_FUNCTIONS[kind]
    frequencies: torch.Tensor = initialise(rotary.config, device, seq_len=length, **layers)[0]
    return frequencies


def declared_keys(kind: type[PreTrainedConfig]) -> set[str]:
    """The keys that a config class declares.

    Configs are dataclasses, except in 4.57, where the keys are the parameters of `__init__` of the class and its bases.
    """
    if dataclasses.is_dataclass(kind):
        return {field.name for field in dataclasses.fields(kind)}
    initialisers = [vars(part)["__init__"] for part in kind.__mro__[:-1] if "__init__" in vars(part)]
    every = (parameter for init in initialisers for parameter in inspect.signature(init).parameters.values())
    return {parameter.name for parameter in every if parameter.kind is not inspect.Parameter.VAR_KEYWORD} - {"self"}
