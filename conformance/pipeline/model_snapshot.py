"""The state of a model that exporting must leave alone (EXP-8), and what has changed of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from conformance.pipeline.contents import digest
from conformance.reference.transformers_api import PreTrainedConfig, experts_of


def footprint(model: PreTrainedModel) -> dict[str, object]:
    """Everything of the model that EXP-8 names, by a name for readers; `changes` compares two of them."""
    return dict(_facts(model))


def changes(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """A phrase for each fact that differs."""
    names = [*before, *(name for name in after if name not in before)]
    return [_change(name, before, after) for name in names if before.get(name, _GONE) != after.get(name, _GONE)]


_GONE = "absent"


def _facts(model: PreTrainedModel) -> Iterator[tuple[str, object]]:
    yield "grad mode", torch.is_grad_enabled()
    yield "random state", digest(torch.get_rng_state())
    yield "generation config", model.generation_config and model.generation_config.to_dict()
    for name, module in model.named_modules():
        at = f" of {name}" if name else ""
        config = getattr(module, "config", None)
        if isinstance(module, PreTrainedModel) and isinstance(config, PreTrainedConfig):
            yield f"config{at}", config.to_dict()
            yield f"attention implementation{at}", config._attn_implementation
            yield f"experts implementation{at}", experts_of(config)
        yield f"train mode{at}", module.training
        yield f"class{at}", type(module).__qualname__
        for name_of_hooks, hooks in _hooks(module):
            yield f"{name_of_hooks}{at}", hooks
        for attribute, replaced in _replaced(module):
            yield f"{attribute}{at}", replaced
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield f"weights of {name}", (str(tensor.dtype), tuple(tensor.shape), tensor.requires_grad, digest(tensor))
        if tensor._backward_hooks:
            yield f"hooks of {name}", tuple(tensor._backward_hooks.values())


def _hooks(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Hooks of any kind: before and after forward, backward, saving and loading."""
    for name, value in vars(module).items():
        if "hooks" in name and isinstance(value, dict) and value:
            yield name.removeprefix("_"), tuple(value.values())


def _replaced(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Functions among the module's own attributes, where they hide those of its class or choose an activation."""
    for name, value in vars(module).items():
        if callable(value) and not isinstance(value, nn.Module | type):
            yield name, id(value)


def _change(name: str, before: Mapping[str, object], after: Mapping[str, object]) -> str:
    was, now = before.get(name, _GONE), after.get(name, _GONE)
    if isinstance(was, dict) and isinstance(now, dict):
        keys = [key for key in {**was, **now} if was.get(key, _GONE) != now.get(key, _GONE)]
        return f"{name}: {', '.join(f'{key} {_short(was.get(key))} → {_short(now.get(key))}' for key in keys)}"
    if isinstance(was, bool | str) and isinstance(now, bool | str) and "random" not in name:
        return f"{name}: {was} → {now}"
    return name


def _short(value: Any, most: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"
