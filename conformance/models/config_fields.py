"""The fields of a decoder's config that can affect its logits, and the neutral values of each.

A field is found by its path in the config: dicts such as `rope_parameters`, small configs within the config, and lists
of numbers are taken apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from conformance.models.checkpoints import WINDOWS
from conformance.reference.transformers_api import PreTrainedConfig, declared_keys

FieldPath = tuple[str | int, ...]


class Rule(StrEnum):
    """Why a field is left out; the value is shown to users."""

    TRAINING = "training, initialisation, other tasks"
    OUTPUT = "what is returned, and which implementation computes it"
    TOKENS = "token ids"
    EPSILON = "epsilons of norms: at a normal value their effect is below the tolerance"
    LAYERS = "kinds of layers and windows: see SEN-1 and SEN-2"
    DIRECTION = "switches that make an encoder of a decoder"
    NAMES = "names and lists of names, which have no neutral value"
    PARTS = "configs of other parts of the model"
    SIZE = "sizes: another value changes shapes of weights"
    NOTHING = "no other value moves the logits"
    REFUSED = "no other value builds a model by itself"


#: The rules that a field's name decides; the others are found by trying.
_BY_NAME: Mapping[Rule, str] = {
    Rule.LAYERS: rf"^({'|'.join(WINDOWS)}|use_sliding_window|max_window_layers|sliding_window_pattern|.*layer_types)$",
    Rule.TRAINING: r"dropout|_drop$|_pdrop$|layerdrop|jitter|loss|init|_std$|std_dev|^classifier|^summary_|^apply_spec"
    r"|^mask_(time|feature)|^mtp_|nextn|_train$|^(start|end)_n_top$|^rescale_prenorm|^axial_norm",
    Rule.OUTPUT: r"^output_(router|attentions|hidden)|^return_|^use_(cache|mamba|assoc|mem_eff)|^num_logits_to_keep$"
    r"|^(chunkwise|sequence|step)_kernel$|^chunk_size|_chunk_?size$|^mode$|^weight_mode$",
    Rule.TOKENS: r"token_id$|tokens$|^(mask|unk|pad|eos|bos)_index$|^lang_id$",
    Rule.EPSILON: r"(^|_)eps(_|$)|epsilon$|^moe_norm_min$",
    Rule.DIRECTION: r"^use_bidirectional_attention$|^is_(en|de)coder$|^causal$|^prefix_lm$|^attn_type$|^bi_data$|^asm$",
    Rule.SIZE: r"(?<!rotary)_dim$|_size$|_heads$|_layers$|_rank$|^n_embd$|^d_model$|^n_inner$|position_embeddings$",
}
#: The share of a head that rotates; a config leaves it out where all does.
_ROTARY_SHARE = "partial_rotary_factor"
#: Lists with a number for each layer are one field; of other lists each number is one.
_PER_LAYER = re.compile(r"layer|pattern")
#: A number that is one of these may be that of a model without the field.
_NEUTRAL: tuple[int | None, ...] = (1, 0, None)
#: Values for a field that is neutral: does any of them move the logits?
_OTHERS: Mapping[type, tuple[Any, ...]] = {int: (1, 2, 3), float: (0.5, 1.5), type(None): (0.5, 2, True)}
#: Switches that are on where a config does not say.
_ON_BY_DEFAULT = ("truncate",)
_LIMIT = re.compile(r"clip|clamp|limit|cap(ping)?$|threshold")
#: What a limit is where nothing is limited.
_UNLIMITED = 1e9
#: Names in configs for the number of experts of a layer.
EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a config: its path, and its value."""

    path: FieldPath
    value: Any

    @property
    def name(self) -> str:
        """The path, such as ``rope_parameters.rope_theta`` or ``ssm_multipliers.2``."""
        return ".".join(map(str, self.path))

    @property
    def key(self) -> str:
        """The last part of the path that is a name."""
        return str(next(part for part in reversed(self.path) if isinstance(part, str)))


@dataclass(slots=True)
class Fields:
    """The fields of a config: those to try, and the names of the others by rule."""

    to_try: list[Field] = field(default_factory=list)
    left_out: dict[Rule, list[str]] = field(default_factory=dict)

    def leave_out(self, rule: Rule, name: str) -> None:
        """Add a field that does not count."""
        self.left_out.setdefault(rule, []).append(name)


def fields_of(config: PreTrainedConfig) -> Fields:
    """The fields that the config's class declares, beyond those of every config."""
    found = Fields()
    layers = vars(config).get("num_hidden_layers")
    for name in _own_keys(config):
        if name in vars(config):
            _add(found, Field((name,), vars(config)[name]), layers)
    return found


def value_at(config: PreTrainedConfig, path: FieldPath) -> Any:
    """The value of the field at `path`.

    Raises:
        KeyError: The config has no such field.
    """
    held: Any = config
    for part in path:
        inside: Any = vars(held) if isinstance(held, PreTrainedConfig) else held
        try:
            held = inside[part]
        except (KeyError, IndexError, TypeError):
            if part == _ROTARY_SHARE and isinstance(held, dict):
                return 1.0
            raise KeyError(".".join(map(str, path))) from None
    return held


def with_value(config: PreTrainedConfig, path: FieldPath, value: Any) -> dict[str, Any]:
    """The override of `config` that gives the field at `path` this value."""
    top = str(path[0])
    return {top: _replaced(vars(config)[top], path[1:], value)}


def neutral_values(config: PreTrainedConfig, field: Field) -> list[Any]:
    """The values of the field in a model without it: 1, 0, None, false, or what other fields entail."""
    value, sizes = field.value, _Sizes(config)
    if isinstance(value, bool):
        return [field.key in _ON_BY_DEFAULT]
    if isinstance(value, list | tuple):
        return [type(value)([float(number)] * len(value)) for number in (1, 0)]
    for pattern, derived in _CHOICES:
        if re.search(pattern, field.key):
            return list(derived(sizes))
    numbers: list[Any] = [
        float(number) if number is not None and isinstance(value, float) else number for number in _NEUTRAL
    ]
    if _LIMIT.search(field.key):
        numbers.append(_UNLIMITED)
    for pattern, derived in _DERIVED:
        if re.search(pattern, field.key):
            numbers += [number for number in derived(sizes) if number]
    return numbers


def other_values(field: Field) -> list[Any]:
    """Values that the field does not have, none of them zero, which would switch off what the field scales."""
    value = field.value
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, list | tuple):
        return [type(value)([0.5] * len(value))]
    twice = (2 * value,) if value else ()
    return [other for other in (*twice, *_OTHERS[type(value)]) if not is_same(other, value)]


def is_same(one: Any, other: Any) -> bool:
    """Whether two values of a field are as good as equal."""
    numbers = [value for value in (one, other) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == 2:
        return math.isclose(*numbers, rel_tol=1e-6, abs_tol=1e-6)
    return type(one) is type(other) and bool(one == other)


def _own_keys(config: PreTrainedConfig) -> list[str]:
    return sorted(declared_keys(type(config)) - declared_keys(PreTrainedConfig))


def _add(found: Fields, field: Field, layers: object) -> None:
    value = field.value
    rule = next((rule for rule, pattern in _BY_NAME.items() if re.search(pattern, field.key)), None)
    is_list = isinstance(value, list | tuple)
    numbers = is_list and len(value) > 0 and all(isinstance(part, float) for part in value)
    if rule is not None and not (rule is Rule.SIZE and is_list):
        found.leave_out(rule, field.name)
    elif isinstance(value, PreTrainedConfig):
        if "hidden_size" in declared_keys(type(value)) | set(type(value).attribute_map):
            found.leave_out(Rule.PARTS, field.name)
            return
        for key in _own_keys(value):
            _add(found, Field((*field.path, key), vars(value).get(key)), layers)
    elif isinstance(value, dict):
        for key, part in value.items():
            _add(found, Field((*field.path, key), part), layers)
        if "rope_type" in value and _ROTARY_SHARE not in value:
            found.to_try.append(Field((*field.path, _ROTARY_SHARE), 1.0))
    elif numbers and not (_PER_LAYER.search(field.key) and len(value) == layers):
        found.to_try += [Field((*field.path, index), part) for index, part in enumerate(value)]
    elif numbers or isinstance(value, bool | int | float | None):
        found.to_try.append(field)
    else:
        found.leave_out(Rule.NAMES, field.name)


def _replaced(held: Any, path: FieldPath, value: Any) -> Any:
    """A copy of `held` with `value` at `path` in it."""
    if not path:
        return value
    if isinstance(held, PreTrainedConfig):
        held = held.to_dict()
    if isinstance(held, dict):
        return {**held, path[0]: _replaced(held.get(path[0]), path[1:], value)}
    index = int(path[0])
    return type(held)([*held[:index], _replaced(held[index], path[1:], value), *held[index + 1 :]])


class _Sizes:
    """The sizes of a config that other values are derived from; 0 where it has none."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self._held = vars(config)

    def first(self, *names: str) -> int:
        """The first of these attributes that is a number."""
        return next((held for name in names if isinstance(held := self._held.get(name), int)), 0)

    @property
    def hidden(self) -> int:
        """The width of the residual stream."""
        return self.first("hidden_size", "d_model", "n_embd")

    @property
    def head(self) -> int:
        """The size of a head."""
        heads = self.first("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
        return self.first("head_dim") or (self.hidden // heads if heads else 0)

    @property
    def query(self) -> int:
        """The size of a query that has parts with and without position."""
        return self.first("qk_nope_head_dim") + self.first("qk_rope_head_dim")


_Derived = tuple[tuple[str, Callable[[_Sizes], list[Any]]], ...]
#: By a part of a field's name: what a model computes if the field is not given.
_DERIVED: _Derived = (
    (r"query_pre_attn_scalar|rotary_dim", lambda sizes: [sizes.head]),
    (
        r"attention_multiplier|attn_scale|softmax_scale|attention_scal",
        lambda sizes: [size**-0.5 for size in (sizes.head, sizes.query) if size],
    ),
    (r"emb.*(multiplier|scale)|scale_emb", lambda sizes: [sizes.hidden**0.5]),
    (r"dim_model_base", lambda sizes: [sizes.hidden]),
)
#: How many are chosen, which is neutral where all are, also if it is one; and which one is.
_CHOICES: _Derived = (
    (r"^topk_group$", lambda sizes: [sizes.first("n_group", "num_expert_group")]),
    (r"per_tok(en)?$|^moe_(k|topk|top_k)$|^top_k_experts$", lambda sizes: [sizes.first(*EXPERTS)]),
    (r"_idx$", lambda _: [0]),
)
