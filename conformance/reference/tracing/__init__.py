"""Changes to a model and to Transformers that last while the model runs to be traced, one module for each.

Each change is a context manager that undoes it on exit. A new one is a module here and an entry in `CONTEXTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from transformers import PreTrainedModel, StaticCache

from conformance.reference.tracing.activations import decomposed_activations
from conformance.reference.tracing.adapters import dense_adapters
from conformance.reference.tracing.evaluation import evaluation_mode
from conformance.reference.tracing.experts import exportable_experts
from conformance.reference.tracing.full_attention import full_attention
from conformance.reference.tracing.local_attention import windows_from_masks
from conformance.reference.tracing.masks import broadcast_masks
from conformance.reference.tracing.recurrences import scanned_recurrences
from conformance.reference.tracing.rotary import functional_frequencies

__all__ = ["CONTEXTS", "ready_to_export", "ready_to_run", "ready_to_trace"]

#: What needs the model alone; `ready_to_trace` enters them in this order.
CONTEXTS: tuple[Callable[[PreTrainedModel], AbstractContextManager[None]], ...] = (
    full_attention,
    decomposed_activations,
    broadcast_masks,
    evaluation_mode,
    exportable_experts,
    dense_adapters,
    windows_from_masks,
)


@contextmanager
def ready_to_trace(model: PreTrainedModel) -> Iterator[None]:
    """Turn gradients off and enter every context of `CONTEXTS`; all of it is undone on exit.

    Gradients must be off because lowering decomposes in-place cache updates, which autograd forbids on leaf tensors.
    The global random number generator keeps its state.

    Args:
        model: The model that is about to run, traced or not.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]), ExitStack() as stack:
        for context in CONTEXTS:
            stack.enter_context(context(model))
        yield


@contextmanager
def ready_to_run(model: PreTrainedModel, max_cache_len: int) -> Iterator[None]:
    """`ready_to_trace`, with rotary frequencies that depend on nothing but the positions of a call.

    Args:
        model: The model that is about to run at any position of the cache.
        max_cache_len: Positions in the cache, in tokens.
    """
    with ready_to_trace(model), functional_frequencies(model, max_cache_len):
        yield


@contextmanager
def ready_to_export(model: PreTrainedModel, cache: StaticCache, max_cache_len: int) -> Iterator[None]:
    """`ready_to_run`, and scanned recurrences.

    Args:
        model: The model that `torch.export.export` is about to trace.
        cache: Its allocated cache.
        max_cache_len: Positions in the cache, in tokens.
    """
    with ready_to_run(model, max_cache_len), scanned_recurrences(model, cache):
        yield
