"""Adapters that are chosen by a batch's language, without picking rows by a mask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from conformance.reference.tracing.methods import replaced_methods


@contextmanager
def dense_adapters(model: nn.Module) -> Iterator[None]:
    """Give each row to every adapter, and keep what its own returned; undone on exit.

    X-MOD picks the rows of a language by a mask. How many there are depends on the data, and a program of that fails on
    XNNPACK where it is run. A batch has few languages, and an adapter is small.
    """
    choosing = [module for module in model.modules() if hasattr(module, "lang_adapter")]
    with replaced_methods({module: {"lang_adapter": partial(_adapted, module)} for module in choosing}):
        yield


def _adapted(module: Any, lang_ids: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    """`hidden_states` [batch, seq, hidden] with what the adapter of each row's language adds; ids of shape [batch]."""
    inputs = hidden_states
    if module.adapter_layer_norm is not None:
        inputs = module.adapter_layer_norm(inputs)
    elif module.adapter_reuse_layer_norm:
        inputs = module.LayerNorm(inputs)
    added = torch.zeros_like(inputs)
    for number, adapter in enumerate(module.adapter_modules.values()):
        added = torch.where((lang_ids == number).view(-1, 1, 1), adapter(inputs), added)
    result: torch.Tensor = module.dropout(added) + (inputs if module.ln_before_adapter else hidden_states)
    return result
