"""A published config made tiny: the first draft of a fixture, by the names of the config's attributes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from conformance.reference.transformers_api import PreTrainedConfig, layer_types

#: The size that a fixture gets, by the names that Transformers' configs use for it.
SIZES: Mapping[int, str] = {
    1: """topk_group moe_layer_start_index num_dense_layers first_k_dense_replace first_dense_layers n_shared_experts
        num_shared_experts moe_num_shared_experts num_nextn_predict_layers index_local_blocks prompt_length
        attn_layer_offset gated_norm_rank n_input_layers n_output_layers n_layers_per_attn_res_block
        loop_layer_index_start""",
    2: """num_layers num_hidden_layers n_layer n_layers encoder_layers decoder_layers num_encoder_layers
        num_decoder_layers depth num_experts_per_tok num_experts_per_token moe_topk moe_k num_key_value_heads
        num_key_value_groups swa_num_key_value_heads n_group num_expert_group linear_num_key_heads
        index_topk_blocks mamba_n_groups mamba_ngroups n_groups n_mamba_heads attn_layer_period hc_mult hc_count
        num_codebooks num_query_groups num_kv_heads altup_num_inputs zero_expert_num ngram_size heads_per_ngram
        split_ngram_parts num_random_blocks num_blocks rotary_dim index_n_group num_local_layers
        num_layers_per_stack num_global_layers full_attention_interval loop_num_passes""",
    3: "loop_layer_index_end",
    4: """num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads
        num_encoder_attention_heads num_decoder_attention_heads num_experts n_routed_experts num_local_experts
        moe_num_experts linear_num_value_heads linear_num_heads mamba_n_heads mamba_num_heads swa_num_attention_heads
        gate_lora_rank index_block_size d_rel laurel_rank block_multiple_of dt_rank mamba_dt_rank time_step_rank
        hc_lowrank o_groups index_topk moe_layer_end_index adapter_rank loop_gate_rank""",
    5: "query_pre_attn_scalar",
    8: """head_dim dim_head d_head attention_head_size qk_rope_head_dim qk_nope_head_dim linear_key_head_dim
        linear_value_head_dim linear_head_dim kv_channels attention_head_dim swa_head_dim mamba_d_state state_size
        ssm_state_size mamba_d_head mamba_head_dim sliding_window sliding_window_size attention_chunk_size
        window_size attention_window_size local_attention chunk_size mamba_chunk_size block_size
        index_head_dim o_lora_rank hidden_size_per_layer_input global_head_dim
        router_hidden_size position_bias_num_buckets num_buckets rel_extent keep_window_size prompt_types
        segment_types prompt_mid_dim ple_embed_dim patch_size encoder_hash_byte_group_vocab""",
    12: "v_head_dim",
    16: """index_n_heads index_num_heads indexer_n_heads kv_lora_rank
        moe_intermediate_size expert_ffn_hidden_size shared_expert_intermediate_size
        shared_intermediate_size moe_shared_expert_intermediate_size shared_experts_intermediate_size
        position_bias_max_distance relative_max_distance dim_model_base num_mel_bins pronunciation_embed_dim
        shape_embed_dim floor_scale""",
    24: "q_lora_rank",
    32: """hidden_size d_model n_embd dim embedding_size attention_hidden_size word_embed_proj_dim lru_width
        input_embedding_size output_embedding_size emb_dim embedding_dim max_source_positions image_size""",
    48: """intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim dim_ff dff d_inner ffn_hidden_size
        intermediate_size_mlp dense_intermediate_size feed_forward_size n_inner""",
    64: """vocab_size vocab_size_per_layer_input max_position_embeddings n_positions n_ctx max_seq_len model_max_length
        max_target_positions context_length original_max_position_embeddings shape_vocab_size
        pronunciation_vocab_size ngram_vocab_size_base log_scaling_n_floor unpadded_vocab_size""",
}
_SIZE_OF = {name: size for size, names in SIZES.items() for name in names.split()}
#: Token ids of every fixture. Texts hold them before others; not the padding where it has no position (RoBERTa).
_TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2, "start_token_id": 2}
#: What a fixture has where the published value is 1, so that a program that ignores the field shows (SEN-3): values of
#: published models where there are some, each different from the others.
_NOT_NEUTRAL: Mapping[str, float] = {
    "attention_in_multiplier": 1.3,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 12.0,
    "key_multiplier": 0.39,
    "lm_head_multiplier": 0.5,
    "logits_scaling": 8.0,
    "moe_routed_scaling_factor": 2.5,
    "n_group": 2,
    "residual_multiplier": 0.22,
    "route_scale": 2.5,
    "routed_scaling_factor": 2.5,
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.6,
}
_LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers")
#: Layers of each cache kind, so that two of a kind can be mixed up.
_LAYERS_OF_A_KIND = 2
#: A per-layer list with more values than this numbers its layers, and does not have their kinds.
_KINDS_OF_A_LIST = 4


def tiny(config: PreTrainedConfig) -> dict[str, Any]:
    """The values of a fixture: the attributes of `config` that have to be smaller, sub-configs included.

    Layers are chosen, not just cut off: two of each kind that the published config has, with their entries in every
    per-layer list. A count that is zero stays zero, since it switches a part off.
    """
    values = {"model_type": config.model_type, **_own_values(config)}
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            values[name] = tiny(part)
    return values


def _own_values(config: PreTrainedConfig) -> dict[str, Any]:
    published = config.to_dict()
    values: dict[str, Any] = {}
    if published.get("is_decoder") is False:
        values["is_decoder"] = True  # without it, an encoder family's decoder looks ahead
    kinds = layer_kinds(config)
    layers = _chosen_layers(kinds, published)
    for name, value in published.items():
        if name in _TOKENS and value is not None:
            values[name] = _TOKENS[name]
        elif name in _LAYER_COUNTS and kinds:
            values[name] = len(layers)
        elif isinstance(value, list | tuple) and kinds and len(value) == len(kinds):
            numbered = list(value) == list(range(len(value)))
            values[name] = list(range(len(layers))) if numbered else [_small(name, value[index]) for index in layers]
        elif name in _NOT_NEUTRAL and value == 1:
            values[name] = _NOT_NEUTRAL[name]
        elif isinstance(value, int):
            small = _small(name, value)
            if small != value:
                values[name] = small
    _keep_head_ratio(values, published)
    return values


def _small(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0 or name not in _SIZE_OF:
        return value
    return min(value, _SIZE_OF[name])


def layer_kinds(config: PreTrainedConfig) -> list[str]:
    """Transformers' type of each cache layer; empty where it knows none."""
    try:
        return layer_types(config)
    except (AttributeError, ValueError):
        return []


def _chosen_layers(kinds: list[str], published: Mapping[str, Any]) -> list[int]:
    """Indices of layers that have two of each cache kind, and each value of the other per-layer lists."""
    lists: list[Iterable[Any]] = [kinds]
    per_layer = [value for value in published.values() if isinstance(value, list | tuple) and len(value) == len(kinds)]
    lists += [value for value in per_layer if len(set(map(str, value))) <= _KINDS_OF_A_LIST]
    chosen: set[int] = set()
    for number, entries in enumerate(lists):
        wanted = _LAYERS_OF_A_KIND if number == 0 else 1
        seen = Counter(str(entry) for index, entry in enumerate(entries) if index in chosen)
        for index, entry in enumerate(entries):
            if seen[str(entry)] < wanted:
                seen[str(entry)] += index not in chosen
                chosen.add(index)
    return sorted(chosen)


def _keep_head_ratio(values: dict[str, Any], published: Mapping[str, Any]) -> None:
    """As many key-value heads as query heads where the published config has that; one where it has one."""
    heads, key_values = published.get("num_attention_heads"), published.get("num_key_value_heads")
    if heads and heads == key_values:
        values["num_key_value_heads"] = values.get("num_attention_heads", heads)
