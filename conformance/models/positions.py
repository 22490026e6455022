"""How long a text a model was made for: by its config, which imports no torch, and by its table of positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conformance.matrix.discovery import has_padding_row, renamed_keys

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_POSITIONS, _ORIGINAL = "max_position_embeddings", "original_max_position_embeddings"


#: The padding id of RoBERTa and its family, where a config leaves it out.
_PADDING = 1


@dataclass(frozen=True, slots=True)
class Reach:
    """The longest text that a model was made for.

    Args:
        tokens: Its length.
        what: The thing with this length, and its key in the config.
    """

    tokens: int
    what: str


def reach(model_type: str, config: Mapping[str, Any]) -> Reach | None:
    """The longest text that a decoder was made for, by its `config`; None if that has no length.

    RoBERTa and its family count from behind the row of their padding id. Rotary embeddings with linear or YaRN scaling
    reach `factor` times as far as the model was trained for first. With dynamic NTK scaling and LongRoPE a cache
    reaches that first length only: past it they rotate by other frequencies, and the keys in the cache keep the former
    ones.

    Args:
        model_type: Of the decoder, as Transformers registers it.
        config: The decoder's part of `config.json`.
    """
    model_type = str(config.get("model_type") or model_type)
    own_name = renamed_keys(model_type).get(_POSITIONS, _POSITIONS)
    name = own_name if own_name in config else _POSITIONS
    longest = _count(config.get(name))
    what = f"{name} in config.json"
    if longest and has_padding_row(model_type):
        unused = config.get("pad_token_id", _PADDING) + 1
        longest, what = longest - unused, f"{what}, less {unused} for padding"
    plain = Reach(longest, f"the model's {longest} positions ({what})") if longest else None
    of_ropes = [_of_rope(rope, config, plain) for rope in _ropes(config)]
    known = [each for each in of_ropes or [plain] if each is not None]
    return min(known, key=lambda each: each.tokens, default=None)


def _of_rope(rope: Mapping[str, Any], config: Mapping[str, Any], plain: Reach | None) -> Reach | None:
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor")
    longest = plain.tokens if plain else 0
    original = _count(config.get(_ORIGINAL)) or _count(rope.get(_ORIGINAL)) or longest
    scaled = int(original * factor) if isinstance(factor, int | float) else 0
    if kind in ("linear", "yarn") and scaled > longest:
        what = f"the model's {scaled} positions ({original} in config.json, and {kind} scaling by {factor:g})"
        return Reach(scaled, what)
    # By its factors, since configs have called LongRoPE "su" too.
    changes = original if rope.get("long_factor") != rope.get("short_factor") else longest if kind == "dynamic" else 0
    if not changes or (longest and longest < changes):
        return plain
    what = f"the {changes} tokens after which the model's rotary frequencies change ({kind} in config.json)"
    return Reach(changes, f"{what}, while the keys in a cache stay as they are")


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rotary parameters of a config, of which each type of layers may have its own."""
    held = config.get("rope_parameters") or config.get("rope_scaling")
    if isinstance(held, dict):
        parts = [part for part in held.values() if isinstance(part, dict)]
        yield from parts or [held]


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def table_end(model: PreTrainedModel) -> int | None:
    """The positions that `model` has, if fewer than the cache that its generation config asks for."""
    from conformance.reference import PositionsEndError, TorchExportableModuleWithStaticCache

    try:
        TorchExportableModuleWithStaticCache(model)
    except PositionsEndError as error:
        return error.longest
    except Exception:  # not about positions; the export fails with it again
        return None
    return None


def past_table(max_cache_len: int, end: int) -> str:
    """The sentence that refuses a cache longer than the `end` positions of a model's table."""
    return f"a cache of {max_cache_len} tokens is longer than the model's table of {end} positions; use at most {end}"


def shorten_cache(model: Any, max_cache_len: int) -> None:
    """Make the generation config of `model` ask for a static cache of `max_cache_len` tokens."""
    config = model.generation_config
    config.cache_config = {**config.cache_config, "max_cache_len": max_cache_len}
