"""Rotary frequencies that change with the length of the text, as a function of the positions of each call.

Past the length that a model was trained for first, dynamic NTK scaling and LongRoPE rotate by other frequencies.
Transformers decides that in Python and keeps the result in the module (`dynamic_rope_update`): `torch.export` cannot
trace the decision, or freezes it, and a program would have frequencies as state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from conformance.reference.tracing.methods import replaced_methods
from conformance.reference.transformers_api import original_length, rope_frequencies

_DYNAMIC, _LONGROPE = "dynamic", "longrope"


@contextmanager
def functional_frequencies(model: PreTrainedModel, max_cache_len: int) -> Iterator[None]:
    """Choose each call's frequencies by its largest position, in the graph; undone on exit.

    They are those of eager decoding token by token. What an earlier call chose is forgotten, while eager decoding keeps
    dynamic frequencies until a call stays below the original length. Keys that were rotated before the change stay in
    the cache: a text that begins before it and ends after it is decoded otherwise than by a forward pass over the whole
    of it, in eager decoding too. A cache of at most the original length needs no choice, and its program has none.

    Args:
        model: The model that is about to run.
        max_cache_len: Positions in the cache, in tokens.
    """
    modules = [module for module in model.modules() if _changes(getattr(module, "rope_type", None))]
    with replaced_methods({module: {"forward": _functional(module, max_cache_len)} for module in modules}):
        yield


class _With:
    """A module with other values of some attributes."""

    def __init__(self, module: nn.Module, **values: Any) -> None:
        self._module = module
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _functional(module: Any, max_cache_len: int) -> Callable[..., Any]:
    """The forward of a rotary embedding, without updates."""
    forward = type(module).forward
    # Models with several kinds of layers have a kind of rotary embedding for each.
    kinds = module.rope_type if isinstance(module.rope_type, dict) else {None: module.rope_type}
    choices = {
        layer_type: _choice(module, kind, layer_type, max_cache_len)
        for layer_type, kind in kinds.items()
        if _changes(kind)
    }
    fixed = dict.fromkeys(kinds, "default") if None not in kinds else "default"

    def functional(x: torch.Tensor, position_ids: torch.Tensor, *layer: str, **named: str) -> Any:
        layer_type = layer[0] if layer else named.get("layer_type")
        if layer_type not in choices:
            return forward(module, x, position_ids, *layer, **named)
        frequencies = {f"{_prefix(layer_type)}inv_freq": choices[layer_type](position_ids)}
        return forward(_With(module, rope_type=fixed, **frequencies), x, position_ids, *layer, **named)

    return functional


def _choice(
    module: Any, kind: str, layer_type: str | None, max_cache_len: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """From the position ids of a call, int64, to its frequencies, float32, shape [rotary_dim / 2]."""
    first: torch.Tensor = getattr(module, f"{_prefix(layer_type)}original_inv_freq")
    original = original_length(module, kind, layer_type)
    if max_cache_len <= original:
        return lambda position_ids: first
    # Past the original length LongRoPE has one set of frequencies, and dynamic NTK scaling another for each length.
    later = rope_frequencies(module, kind, layer_type, original + 1) if kind == _LONGROPE else None

    def chosen(position_ids: torch.Tensor) -> torch.Tensor:
        length = torch.max(position_ids) + 1
        changed = rope_frequencies(module, kind, layer_type, length) if later is None else later
        return torch.where(length > original, changed, first)

    return chosen


def _changes(kind: object) -> bool:
    if isinstance(kind, dict):
        return any(map(_changes, kind.values()))
    return isinstance(kind, str) and (_DYNAMIC in kind or kind == _LONGROPE)


def _prefix(layer_type: str | None) -> str:
    return f"{layer_type}_" if layer_type else ""
