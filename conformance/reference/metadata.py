"""The constant methods that ExecuTorch's LLM runner reads from a program; they are lowered together with it."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from conformance.reference.settings import CUSTOM, PORTABLE, cache_settings


def runner_methods(
    model: PreTrainedModel, *, dynamic: bool, max_seq_len: int | None = None, attention: str = PORTABLE
) -> dict[str, Any]:
    """The constant methods that `TextLLMRunner` reads, for a program that was exported from `model`.

    Give them to `to_edge_transform_and_lower(program, constant_methods=...)`, or to `to_edge`.

    Args:
        model: The model as it was exported: its generation config has the cache's length and the end ids.
        dynamic: Whether the program was exported with a dynamic sequence length. If not, the runner must pass prompts
            to it token by token.
        max_seq_len: The longest call that the program takes, in tokens; the cache's length if not given.
        attention: As the program was exported with it: "portable" or "custom".

    Returns:
        By name: `get_max_seq_len`, the longest call, and `get_max_context_len`, the cache's length, in tokens;
        `use_kv_cache`, `enable_dynamic_shape` and `use_sdpa_with_kv_cache`, booleans; and, if the model has any,
        `get_eos_ids`, the token ids that end a text. The runner reads the first token of a text and the size of the
        vocabulary from the tokenizer.

    Raises:
        ModelNotExportableError: The generation config does not ask for a static cache of a given size.
    """
    length = cache_settings(model).max_cache_len
    methods: dict[str, Any] = {
        # The longest call. Below the context's length, the runner of ExecuTorch 1.5.1 computes the room for an answer
        # as if the cache were empty: an app has to bound answers itself.
        "get_max_seq_len": max_seq_len or length,
        "get_max_context_len": length,
        "use_kv_cache": True,
        "enable_dynamic_shape": dynamic,
        "use_sdpa_with_kv_cache": attention == CUSTOM,  # whether ExecuTorch's own operators update the cache
    }
    ends = eos_ids(model)
    if ends:
        methods["get_eos_ids"] = ends
    return methods


def eos_ids(model: PreTrainedModel) -> list[int]:
    """The token ids that end a text: the generation config's, or else the config's; empty if neither has any."""
    configs: tuple[Any, ...] = (model.generation_config, model.config.get_text_config(decoder=True))
    for config in configs:
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            return [int(token) for token in (ids if isinstance(ids, list | tuple) else [ids])]
    return []
