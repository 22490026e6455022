"""Variations of a fixture: other sizes and switches of its config, and other cache lengths, drawn by Hypothesis."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import AutoConfig, PreTrainedModel

from conformance.core.cells import split_row
from conformance.core.errors import InputError
from conformance.core.verdicts import Stage, at
from conformance.matrix.schema import load_matrix
from conformance.matrix.variations import Variation as NamedVariation
from conformance.models.config_fields import EXPERTS
from conformance.models.fixtures import MAX_CACHE_LEN, build_model, code_keys, config_of, config_values
from conformance.reference.transformers_api import PreTrainedConfig

Changes = Mapping[str, Any]

#: One attribute in so many is varied: of some 15, two or three at a time, which keeps most of what comes out valid.
_ONE_IN = 6
#: Names in configs for the same thing.
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "decoder_attention_heads")
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "num_key_value_groups")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k")
_WINDOWS = ("sliding_window", "sliding_window_size", "attention_chunk_size", "window_size", "attention_window_size")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "activation", "ffn_activation")
#: Switches whose both positions published models use.
_SWITCHES = """tie_word_embeddings attention_bias mlp_bias bias use_bias conv_bias qkv_bias use_qkv_bias add_qkv_bias
    attention_out_bias use_qk_norm qk_layernorm multi_query new_decoder_architecture parallel_attn alibi
    use_parallel_residual scale_attn_by_inverse_layer_idx reorder_and_upcast_attn norm_topk_prob rope_interleave
    attn_temperature_tuning"""
#: Values to try for attributes on which nothing else depends. Fixtures have heads of 8 and caches of 32 positions.
_VALUES: Mapping[str, tuple[Any, ...]] = {
    "vocab_size": (65, 96, 128),
    "kv_lora_rank": (8, 20),
    "q_lora_rank": (None, 8),
    "qk_rope_head_dim": (4, 16),
    "qk_nope_head_dim": (4, 16),
    "v_head_dim": (8, 16, 20),
    "conv_L_cache": (2, 4),
    "first_k_dense_replace": (0, 2),
    "n_shared_experts": (2,),
    "query_pre_attn_scalar": (4,),
    "attn_logit_softcapping": (None, 5.0),
    "final_logit_softcapping": (None, 5.0),
}
_ROPES: Mapping[str, Changes] = {
    "linear": {"factor": 2.0},
    # The caches' positions stay below the length where these change over, which no cache of earlier keys survives.
    "dynamic": {"factor": 2.0},
    "longrope": {"factor": 2.0, "original_max_position_embeddings": 64},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 16},
    "llama3": {
        "factor": 2.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


@dataclass(frozen=True, slots=True)
class Variation:
    """The differences from an architecture's fixture.

    Args:
        overrides: Attributes of its config, or of the text config within it, with their values in JSON's types.
        max_cache_len: Positions in the cache, in tokens.
        settings: What else is built otherwise, by the names of `conformance.matrix.variations.Variation`.
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    max_cache_len: int = MAX_CACHE_LEN
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for equal variations."""
        return json.dumps([self.overrides, self.max_cache_len, self.settings], sort_keys=True)

    @property
    def changes(self) -> dict[str, Any]:
        """The overrides, and the cache length where that is not the fixtures'."""
        length = {"max_cache_len": self.max_cache_len} if self.max_cache_len != MAX_CACHE_LEN else {}
        return {**self.overrides, **length, **self.settings}

    def includes(self, other: Variation) -> bool:
        """Whether it changes all that `other` changes, to the same values."""
        return other.changes.items() <= self.changes.items()

    def __str__(self) -> str:
        changes = (f"{name}={json.dumps(value)}" for name, value in self.changes.items())
        return ", ".join(changes) or "the unchanged fixture"


def build(architecture: str, variation: Variation) -> PreTrainedModel:
    """The variation's model."""
    with at(Stage.BUILD):
        for key in code_keys(variation.overrides):
            raise ValueError(f"the key {key!r} is not varied: a model can load code by it")
        return built(varied_values(architecture, variation), variation)


def built(values: Changes, variation: Variation) -> PreTrainedModel:
    """The model of a config whose values have been varied already, with the rest of the variation.

    Raises:
        UnknownKeyError: The installed Transformers' config lacks a key.
    """
    settings = dict(variation.settings)
    dtype = getattr(torch, settings.get("dtype", "float32"))
    config = config_of(dict(values), f"{values['model_type']} with {variation}")
    model = build_model(config, variation.max_cache_len, batch_size=settings.get("batch_size", 1), dtype=dtype)
    _scale_output(
        model, settings.get("output_gain", 1.0), settings.get("outliers", 0), settings.get("outlier_gain", 1.0)
    )
    return model


def of_row(row: str) -> Variation:
    """The variation that a row of the matrix is; of an architecture's own row, one that changes nothing.

    Raises:
        ValueError: There is no such row.
    """
    architecture, name = split_row(row)
    if name is None:
        return Variation()
    named = _named().get(name)
    if named is None or architecture not in named.rows:
        raise InputError("unknown-name", f"{architecture} has no variation {name!r}")
    return Variation(named.rows[architecture].config, named.cache_length or MAX_CACHE_LEN, named.settings)


def row_values(row: str) -> dict[str, Any]:
    """The values that the config of a row is made from, its variation included."""
    return varied_values(split_row(row)[0], of_row(row))


@functools.cache
def _named() -> Mapping[str, NamedVariation]:
    return load_matrix().variations


@torch.no_grad()
def _scale_output(model: PreTrainedModel, gain: float, outliers: int, outlier_gain: float) -> None:
    """Make logits large: all by `gain`, and those of `outliers` token ids, evenly spread, by `outlier_gain` again."""
    if (gain, outliers) == (1.0, 0):
        return
    head: Any = model.get_output_embeddings()
    head.weight.mul_(gain)
    step = max(1, head.weight.shape[0] // (outliers + 1))
    for token in range(step, step * outliers + 1, step):
        head.weight[token].mul_(outlier_gain)


def variations(architecture: str) -> st.SearchStrategy[Variation]:
    """Variations that the architecture's config has attributes for. They shrink to the fewest changes."""
    return _variations(Space(architecture))


class Space:
    """The attributes of an architecture that can be varied.

    Attributes:
        values: The decoder's values in the fixture; those that follow from others are derived again for a variation.
        present: Every attribute of the decoder's config.
        attributes: What can be varied, each with the changes that are possible beside those made already. In order:
            what others depend on comes first.
    """

    def __init__(self, architecture: str) -> None:
        whole = config_values(architecture)
        config: PreTrainedConfig = AutoConfig.for_model(**whole)
        self.values = _text_part(config, whole)
        self.present: dict[str, Any] = config.get_text_config(decoder=True).to_dict()
        self.attributes: dict[str, Callable[[Changes], list[dict[str, Any]]]] = {
            name: possible
            for name, possible in {
                "layers": self._layers,
                "layer types": self._layer_types,
                "heads": self._heads,
                "head size": self._head_size,
                "key-value heads": self._key_value_heads,
                "hidden size": self._hidden_size,
                "windows": self._windows,
                "experts": self._experts,
                "experts per token": self._experts_per_token,
                "rope": self._ropes,
                "rotary share": self._rotary_share,
                "activation": self._activations,
                "longest text": self._longest_text,
                **{name: self._plain(name, values) for name, values in _VALUES.items()},
                **{name: self._switch(name) for name in _SWITCHES.split()},
                "cache length": self._cache_lengths,
            }.items()
            if possible({})
        }

    def settled(self, changes: Changes) -> dict[str, Any]:
        """`changes`, with what they entail, and without what is as the fixture has it."""
        settled = dict(changes)
        heads, key_values = self._number(_HEADS, changes), self._number(_KEY_VALUE_HEADS, changes)
        if heads and key_values and heads % key_values:
            alike = self._number(_HEADS, {}) == self._number(_KEY_VALUE_HEADS, {})
            fitting = heads if alike else max(part for part in _divisors(heads) if part <= key_values)
            settled[self._name(_KEY_VALUE_HEADS)] = fitting
        kind = settled.pop("rope kind", None)
        if kind:
            settled["rope_parameters"] = self._rope(kind, settled.pop("rotary share", None), settled)
        elif "rotary share" in settled:
            settled["rope_parameters"] = self._rope(None, settled.pop("rotary share"), settled)
        return {name: value for name, value in settled.items() if self.present.get(name) != value}

    def _layers(self, _: Changes) -> list[dict[str, Any]]:
        name = self._name(_LAYERS)
        if not name:
            return []
        present = int(self.present[name])
        lists = {key: held for key, held in self.values.items() if isinstance(held, list) and len(held) == present}
        return [
            {name: count, **{key: _resized(held, count) for key, held in lists.items()}}
            for count in (1, 2, 3, 5)
            if count != present
        ]

    def _layer_types(self, changes: Changes) -> list[dict[str, Any]]:
        held = changes.get("layer_types", self.values.get("layer_types"))
        if not isinstance(held, list) or len(set(held)) == 1:
            return []
        return [{"layer_types": [kind] * len(held)} for kind in dict.fromkeys(held)] + [{"layer_types": held[::-1]}]

    def _heads(self, _: Changes) -> list[dict[str, Any]]:
        name, hidden = self._name(_HEADS), self._name(_HIDDEN)
        if not name:
            return []
        present, width = int(self.present[name]), int(self.present.get(hidden, 0))
        changes: list[dict[str, Any]] = []
        for heads in (1, 2, 3, 6, 8):
            if heads != present:
                # Config classes ask for whole shares, also of a hidden size that is not made up of heads.
                size = width // present if self._hidden_by_head() else 8
                whole = width % heads == 0 and not self._hidden_by_head()
                changes.append({name: heads} if whole or not hidden else {name: heads, hidden: heads * size})
        return changes

    def _head_size(self, changes: Changes) -> list[dict[str, Any]]:
        hidden, heads = self._hidden_by_head(), self._number(_HEADS, changes)
        if hidden and heads:
            return [{hidden: heads * size} for size in (2, 4, 6, 10, 12, 16)]
        return self._plain("head_dim", (2, 4, 6, 10, 12, 16))(changes) if "head_dim" in self.values else []

    def _key_value_heads(self, changes: Changes) -> list[dict[str, Any]]:
        name, heads = self._name(_KEY_VALUE_HEADS), self._number(_HEADS, changes)
        return [{name: part} for part in _divisors(heads) if part != self.present[name]] if name and heads else []

    def _hidden_size(self, changes: Changes) -> list[dict[str, Any]]:
        name, heads = self._name(_HIDDEN), self._number(_HEADS, changes) or 1
        if not name or self._hidden_by_head():
            return []
        return [{name: size} for size in (24, 48, 64) if size % heads == 0]

    def _windows(self, _: Changes) -> list[dict[str, Any]]:
        changes: list[dict[str, Any]] = [
            {name: window}
            for name in _WINDOWS
            if _is_number(self.present.get(name))
            for window in (4, 2, 1, 7, 16, 31, 32, 33, 64, None)
        ]
        if self.present.get("use_sliding_window") is False:
            changes.append({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1})
        return changes

    def _experts(self, _: Changes) -> list[dict[str, Any]]:
        name = self._name(EXPERTS)
        return [{name: count} for count in (2, 3, 6, 8) if count != self.present[name]] if name else []

    def _experts_per_token(self, changes: Changes) -> list[dict[str, Any]]:
        name, experts = self._name(_EXPERTS_PER_TOKEN), self._number(EXPERTS, changes)
        if not name:
            return []
        return [{name: count} for count in (1, 2, 3, 4) if count <= experts and count != self.present[name]]

    def _ropes(self, _: Changes) -> list[dict[str, Any]]:
        return [{"rope kind": kind} for kind in _ROPES] if self.present.get("rope_parameters") else []

    def _rotary_share(self, _: Changes) -> list[dict[str, Any]]:
        held = self.present.get("rope_parameters")
        if not held:
            return []
        parts = [part for part in held.values() if isinstance(part, dict)] or [held]
        present = {part.get("partial_rotary_factor", 1.0) for part in parts}
        return [{"rotary share": share} for share in (0.5, 1.0) if present != {share}]

    def _activations(self, _: Changes) -> list[dict[str, Any]]:
        name = self._name(_ACTIVATIONS)
        others = ("silu", "gelu", "gelu_pytorch_tanh", "relu", "relu2", "gelu_new", "quick_gelu")
        return [{name: other} for other in others if other != self.present[name]] if name else []

    def _longest_text(self, _: Changes) -> list[dict[str, Any]]:
        # Below the caches' length, for rotary positions only: those that are learned end with it.
        return [{"max_position_embeddings": 16}] if self.present.get("rope_parameters") else []

    def _cache_lengths(self, _: Changes) -> list[dict[str, Any]]:
        # The checks' pinned scripts are up to 12 tokens long, fixtures' texts and learned positions at most 63.
        return [{"max_cache_len": length} for length in (16, 12, 13, 31, 33, 48)]

    def _plain(self, name: str, values: Iterable[Any]) -> Callable[[Changes], list[dict[str, Any]]]:
        there = name in self.present
        return lambda _: [{name: value} for value in values if there and value != self.present[name]]

    def _switch(self, name: str) -> Callable[[Changes], list[dict[str, Any]]]:
        return lambda _: [{name: not self.present[name]}] if isinstance(self.present.get(name), bool) else []

    def _rope(self, kind: str | None, share: float | None, changes: Changes) -> dict[str, Any]:
        """The config's rotary parameters of another kind or for another share of each head, for all its layers."""
        held: dict[str, Any] = self.present["rope_parameters"]
        if any(isinstance(part, dict) for part in held.values()):
            return {layers: self._rope_of_a_kind(part, kind, share, changes) for layers, part in held.items()}
        return self._rope_of_a_kind(held, kind, share, changes)

    def _rope_of_a_kind(self, held: Changes, kind: str | None, share: float | None, changes: Changes) -> dict[str, Any]:
        made = dict(held)
        if share is not None:
            made["partial_rotary_factor"] = share
        if kind is None:
            return made
        made |= {"rope_type": kind, **_ROPES[kind]}
        if kind == "longrope":
            heads, hidden = self._number(_HEADS, changes), self._number(_HIDDEN, changes)
            size = self._number(("qk_rope_head_dim",), changes) or self._number(("head_dim",), changes)
            rotary = int((size or hidden // heads) * made.get("partial_rotary_factor", 1.0))
            made |= {"short_factor": [1.5] * (rotary // 2), "long_factor": [3.0] * (rotary // 2)}
        return made

    def _hidden_by_head(self) -> str | None:
        """The attribute that is heads × head size, where the config has no head size of its own."""
        independent = "head_dim" in self.values or "kv_lora_rank" in self.present
        return None if independent or not self._name(_HEADS) else self._name(_HIDDEN) or None

    def _name(self, names: Iterable[str]) -> str:
        """Which of these names the config has; empty if none."""
        return next((name for name in names if self.present.get(name) is not None), "")

    def _number(self, names: Iterable[str], changes: Changes) -> int:
        name = self._name(names)
        value = changes.get(name, self.present.get(name))
        return value if isinstance(value, int) and _is_number(value) else 0


@st.composite
def _variations(draw: st.DrawFn, space: Space) -> Variation:
    changes: dict[str, Any] = {}
    for possible in space.attributes.values():
        some = possible(changes)
        # As many draws whatever comes out, none before some: each attribute then shrinks to none by itself, in one try.
        none: list[dict[str, Any]] = [{}] * ((_ONE_IN - 1) * max(1, len(some)))
        changes |= draw(st.sampled_from([*none, *some]))
    length = changes.pop("max_cache_len", MAX_CACHE_LEN)
    return Variation(space.settled(changes), length)


def _text_part(config: PreTrainedConfig, values: dict[str, Any]) -> dict[str, Any]:
    """The part of `values` that makes the config of the decoder."""
    text = config.get_text_config(decoder=True)
    if text is config:
        return values
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig) and part.get_text_config(decoder=True) is text:
            return _text_part(part, values.setdefault(name, {}))
    return values


def varied(values: dict[str, Any], overrides: Changes) -> dict[str, Any]:
    """`values`, changed in place, with `overrides` in the decoder's part."""
    if overrides:
        _text_part(AutoConfig.for_model(**values), values).update(overrides)
    return values


def varied_values(architecture: str, variation: Variation) -> dict[str, Any]:
    """The values that the variation's config is made from: the fixture's, with the overrides in the decoder's part."""
    return varied(config_values(architecture), variation.overrides)


def _resized(held: list[Any], length: int) -> list[Any]:
    """A per-layer list for `length` layers: numbers count on, kinds come again in the same order."""
    if held == list(range(len(held))):
        return list(range(length))
    return [held[index % len(held)] for index in range(length)]


def _divisors(number: int) -> list[int]:
    return [part for part in range(1, number + 1) if number % part == 0]


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
