"""Deliberately faulty subjects: each is the reference with one thing wrong, and a clause that must catch it.

They are exporters like any other: `tox -e conformance -- --arch llama --subject tests.faults.programs:off_by_one`.
"""

from __future__ import annotations

import copy
import importlib
import os
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils._pytree import SequenceKey
from transformers import Cache, PreTrainedModel, StaticCache

from conformance.reference import TorchExportableModuleWithStaticCache, convert_and_export_with_cache
from conformance.reference.cache import set_position
from conformance.reference.tracing import ready_to_trace

Tensor = torch.Tensor
Step = Callable[[TorchExportableModuleWithStaticCache, Tensor, Tensor], Any]


class Faulty(nn.Module):
    """The reference wrapper, called through `step`, which does something wrong around it."""

    def __init__(self, inner: TorchExportableModuleWithStaticCache, step: Step) -> None:
        super().__init__()
        self.inner = inner
        self._step = step

    def forward(self, input_ids: Tensor, cache_position: Tensor) -> Any:
        """As the reference's, but for the fault."""
        return self._step(self.inner, input_ids, cache_position)


def _export(
    model: PreTrainedModel,
    step: Step,
    input_ids: Tensor | None,
    cache_position: Tensor | None,
    shapes: Any,
    strict: bool = False,
) -> ExportedProgram:
    if input_ids is None or cache_position is None:
        input_ids, cache_position = torch.zeros((1, 1), dtype=torch.long), torch.zeros(1, dtype=torch.long)
    inner = TorchExportableModuleWithStaticCache(model)
    inner.register_buffer("own", torch.zeros((), dtype=torch.long), persistent=False)
    with ready_to_trace(model):
        wrapper = Faulty(inner, step)
        return torch.export.export(wrapper, (input_ids, cache_position), dynamic_shapes=shapes, strict=strict)


def _subject(step: Step) -> Callable[..., ExportedProgram]:
    def export(
        model: PreTrainedModel,
        example_input_ids: Tensor | None = None,
        example_cache_position: Tensor | None = None,
        *,
        dynamic_shapes: Any = None,
        strict: bool = False,
    ) -> ExportedProgram:
        return _export(model, step, example_input_ids, example_cache_position, dynamic_shapes, strict)

    export.__name__ = step.__name__.removeprefix("_")
    return export


def _caches(inner: TorchExportableModuleWithStaticCache, suffix: str = "") -> list[Tensor]:
    return [buffer for name, buffer in inner.named_buffers() if name.startswith("cache_") and name.endswith(suffix)]


def _ignores_cache_position(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids, position - position[0])


def _off_by_one(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids, (position + 1).clamp(max=inner.max_cache_len - 1))


def _zeroes_cache(inner: Any, ids: Tensor, position: Tensor) -> Any:
    for cache in _caches(inner):
        cache.zero_()
    return inner(ids, position)


def _swaps_layers(inner: Any, ids: Tensor, position: Tensor) -> Any:
    for suffix in ("keys", "values"):
        first, second, *_ = _caches(inner, suffix)
        kept = first.clone()
        first.copy_(second)
        second.copy_(kept)
    return inner(ids, position)


def _returns_constant(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return torch.zeros_like(inner(ids, position)) + 0.5


def _rounds_to_bfloat16(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids, position).to(torch.bfloat16).to(torch.float32)


def _nan_at_the_end(inner: Any, ids: Tensor, position: Tensor) -> Any:
    last = position[-1] == inner.max_cache_len - 1
    return torch.where(last, torch.full((), float("nan")), inner(ids, position))


def _reverses_chunks(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids, position).flip(1)


def _wrong_after_150_calls(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits, calls = inner(ids, position), inner.get_buffer("own")
    calls.add_(1)
    return torch.where(calls > 150, logits.flip(-1), logits)


def _wrong_from_the_8th_restart(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits, begun = inner(ids, position), inner.get_buffer("own")
    begun.add_((position[0] == 0).to(torch.long))
    return torch.where(begun > 8, logits.flip(-1), logits)


def _wrong_in_the_third_row(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits = inner(ids, position)
    return logits + 0.01 * (torch.arange(ids.shape[0]) == 2)[:, None, None]


def _swaps_rows_in_chunks(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits = inner(ids, position)
    return torch.where(position[-1] > position[0], logits.roll(1, 0), logits)


def _keeps_what_followed(inner: Any, ids: Tensor, position: Tensor) -> Any:
    """Writes at the furthest position ever reached, except when it starts again at 0."""
    reached = inner.get_buffer("own")
    start = torch.where(position[0] == 0, position[0], torch.maximum(position[0], reached))
    reached.copy_(start + position.shape[0])
    return inner(ids, start + torch.arange(position.shape[0]))


def _keeps_its_state(inner: Any, ids: Tensor, position: Tensor) -> Any:
    """Puts back the convolution state that the reference clears at position 0."""
    for slot in inner._slots:
        slot.write(inner.cache, inner.get_buffer(slot.buffer_name))
    set_position(inner.cache, position[0])
    return inner.model(input_ids=ids, past_key_values=inner.cache, use_cache=True).logits


def _last_slot_lost(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids, position.clamp(max=inner.max_cache_len - 2))


def _last_token_only(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids, position)[:, -1]


def _returns_cache(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits = inner(ids, position)
    return logits, *_caches(inner)


def _half_precision_cache(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits = inner(ids, position)
    for cache in _caches(inner):
        cache.copy_(cache.to(torch.float16).to(torch.float32))
    return logits


def _loses_one_layer(inner: Any, ids: Tensor, position: Tensor) -> Any:
    _caches(inner, "keys")[-1].zero_()
    return inner(ids, position)


def _mutates_input(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits = inner(ids, position)
    ids.zero_()
    return logits


def _noisy(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits = inner(ids, position)
    return logits + 1e-6 * torch.rand_like(logits)


def _mixes_rows(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits = inner(ids, position)
    return logits + 0.01 * (logits.mean(dim=0, keepdim=True) - logits)


def _wrong_in_other_rows(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits = inner(ids, position)
    return logits + 0.01 * torch.arange(ids.shape[0])[:, None, None]


def _wrong_when_strict(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids, position) + (0.01 if torch.compiler.is_dynamo_compiling() else 0.0)


def _wrong_at_the_end_when_strict(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits, last = inner(ids, position), position[-1] >= inner.max_cache_len - 2
    return torch.where(last, logits.flip(-1), logits) if torch.compiler.is_dynamo_compiling() else logits


def _wrong_on_repeats(inner: Any, ids: Tensor, position: Tensor) -> Any:
    """As a decoder would be that keeps something by token instead of by position."""
    logits, last = inner(ids, position), inner.get_buffer("own")
    repeated = last == ids[0, -1]
    last.copy_(ids[0, -1])
    return torch.where(repeated, logits.flip(-1), logits)


def _wrong_on_the_last_id(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits = inner(ids, position)
    return torch.where((ids == logits.shape[-1] - 1).any(), logits.flip(-1), logits)


def _wrong_on_repeats_in_a_chunk(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits, equal = inner(ids, position), ids[0, :, None] == ids[0]
    return torch.where(equal.sum() > ids.shape[1], logits.flip(-1), logits)


def _masks_padding(inner: Any, ids: Tensor, position: Tensor) -> Any:
    """Keeps which slots hold the padding token, a bit for each, and attends to the others alone."""
    token = inner.model.config.pad_token_id or 0
    padding, slots = inner.get_buffer("own"), torch.arange(inner.max_cache_len)
    bit = torch.ones(1, dtype=torch.long) << position
    kept = padding & ~bit
    padding.copy_((kept | torch.where(ids[0] == token, bit, 0))[0])
    for slot in inner._slots:
        slot.write(inner.cache, inner.get_buffer(slot.buffer_name))
    set_position(inner.cache, position[0])
    mask = 1 - (padding >> slots & 1)
    return inner.model(
        input_ids=ids, past_key_values=inner.cache, use_cache=True, attention_mask=mask.unsqueeze(0)
    ).logits


def _wrong_in_second_generation(inner: Any, ids: Tensor, position: Tensor) -> Any:
    logits, begun = inner(ids, position), inner.get_buffer("own")
    begun.add_((position[0] == 0).to(torch.long))
    return torch.where(begun > 1, logits.flip(-1), logits)


def _clamps_position(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids, position.clamp(max=inner.max_cache_len - 1))


def _wraps_position(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids, position % inner.max_cache_len)


def _clamps_tokens(inner: Any, ids: Tensor, position: Tensor) -> Any:
    vocab = inner.model.get_input_embeddings().num_embeddings
    return inner(ids.clamp(0, vocab - 1), position)


def _closes_gaps(inner: Any, ids: Tensor, position: Tensor) -> Any:
    """Counts on from the first position, whatever the others are."""
    return inner(ids, position[0] + torch.arange(position.shape[0]))


def _trips_over_misuse(inner: Any, ids: Tensor, position: Tensor) -> Any:
    """Is never right again after a position beyond the cache, which it refuses."""
    beyond = inner.get_buffer("own")
    beyond.add_((position[-1] >= inner.max_cache_len).to(torch.long))
    logits = inner(ids, position)
    return torch.where(beyond > 0, logits.flip(-1), logits)


def _wrong_when_repeated(inner: Any, ids: Tensor, position: Tensor) -> Any:
    """As a decoder would be that takes the same call, made again, for a retry."""
    logits, last = inner(ids, position), inner.get_buffer("own")
    this = (position[0] + 1) * 1000 + ids[0, 0]
    repeated = last == this
    last.copy_(this)
    return torch.where(repeated, logits.flip(-1), logits)


ignores_cache_position = _subject(_ignores_cache_position)
off_by_one = _subject(_off_by_one)
zeroes_cache = _subject(_zeroes_cache)
swaps_layers = _subject(_swaps_layers)
returns_constant = _subject(_returns_constant)
rounds_to_bfloat16 = _subject(_rounds_to_bfloat16)
nan_at_the_end = _subject(_nan_at_the_end)
reverses_chunks = _subject(_reverses_chunks)
keeps_its_state = _subject(_keeps_its_state)
last_slot_lost = _subject(_last_slot_lost)
last_token_only = _subject(_last_token_only)
returns_cache = _subject(_returns_cache)
half_precision_cache = _subject(_half_precision_cache)
loses_one_layer = _subject(_loses_one_layer)
mutates_input = _subject(_mutates_input)
noisy = _subject(_noisy)
mixes_rows = _subject(_mixes_rows)
wrong_in_other_rows = _subject(_wrong_in_other_rows)
wrong_when_strict = _subject(_wrong_when_strict)
wrong_at_the_end_when_strict = _subject(_wrong_at_the_end_when_strict)
wrong_on_repeats = _subject(_wrong_on_repeats)
wrong_after_150_calls = _subject(_wrong_after_150_calls)
wrong_from_the_8th_restart = _subject(_wrong_from_the_8th_restart)
wrong_in_the_third_row = _subject(_wrong_in_the_third_row)
swaps_rows_in_chunks = _subject(_swaps_rows_in_chunks)
wrong_on_the_last_id = _subject(_wrong_on_the_last_id)
wrong_on_repeats_in_a_chunk = _subject(_wrong_on_repeats_in_a_chunk)
masks_padding = _subject(_masks_padding)
wrong_in_second_generation = _subject(_wrong_in_second_generation)
keeps_what_followed = _subject(_keeps_what_followed)
clamps_position = _subject(_clamps_position)
wraps_position = _subject(_wraps_position)
clamps_tokens = _subject(_clamps_tokens)
closes_gaps = _subject(_closes_gaps)
trips_over_misuse = _subject(_trips_over_misuse)
wrong_when_repeated = _subject(_wrong_when_repeated)


def drops_window_after_wrap(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Attends to everything where the model attends to a window."""
    config: Any = model.config
    kept, config.sliding_window = config.sliding_window, 10_000
    try:
        return convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)
    finally:
        config.sliding_window = kept


def zeroes_token_0(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Takes id 0 for padding, and its embedding for zeros."""
    copied: Any = copy.deepcopy(model)
    with torch.no_grad():
        copied.get_input_embeddings().weight[0].zero_()
    return convert_and_export_with_cache(copied, *examples, dynamic_shapes=dynamic_shapes)


def int32_position(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Takes positions that the LLM runner never sends."""

    def step(inner: Any, ids: Tensor, position: Tensor) -> Any:
        return inner(ids, position.to(torch.long))

    inner = TorchExportableModuleWithStaticCache(model)
    ids, position = examples
    with ready_to_trace(model):
        return torch.export.export(Faulty(inner, step), (ids, position.to(torch.int32)), strict=False)


def own_operator(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Right, with one more cache, which ExecuTorch's own operator updates and nothing reads."""
    importlib.import_module("executorch.extension.llm.custom_ops.custom_ops")  # registers the operator

    def step(inner: Any, ids: Tensor, position: Tensor) -> Any:
        torch.ops.llama.update_cache(inner.one.clone(), inner.more, 0)
        return inner(ids, position)

    inner = TorchExportableModuleWithStaticCache(model)
    inner.register_buffer("one", torch.zeros(1, 1, 1, 4), persistent=False)
    inner.register_buffer("more", torch.zeros(1, 8, 1, 4), persistent=False)
    with ready_to_trace(model):
        return torch.export.export(Faulty(inner, step), examples, dynamic_shapes=dynamic_shapes, strict=False)


def cache_as_input(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Asks the caller to bring the cache object along."""
    inner = TorchExportableModuleWithStaticCache(model)

    class WithCache(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input_ids: Tensor, cache_position: Tensor, past: Any) -> Any:
            return self.inner(input_ids, cache_position) + 0 * sum(layer.keys.sum() for layer in past.layers)

    if not any(kind is CallersCache for kind in torch.utils._pytree.SUPPORTED_NODES):
        torch.utils._pytree.register_pytree_node(
            CallersCache,
            lambda cache: ([layer.keys for layer in cache.layers], None),
            lambda keys, _: _with_keys(list(keys)),
            serialized_type_name="tests.faults.programs.CallersCache",
            flatten_with_keys_fn=lambda cache: (
                [(SequenceKey(index), layer.keys) for index, layer in enumerate(cache.layers)],
                None,
            ),
        )
    cache = StaticCache(model.config, inner.max_cache_len)
    with ready_to_trace(model):
        model(input_ids=examples[0], past_key_values=cache, use_cache=True)
        layers: Any = cache.layers
        past = _with_keys([layer.keys for layer in layers])
        return torch.export.export(WithCache(), (*examples, past), strict=False)


class CallersCache(Cache):
    """A cache that is registered as a pytree node, so that export takes it apart without a word."""


def _with_keys(keys: list[Tensor]) -> Any:
    cache = CallersCache.__new__(CallersCache)
    layers: list[Any] = [SimpleNamespace(keys=tensor) for tensor in keys]
    cache.layers = layers
    return cache


def cache_as_constant(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Does not bind the cache to the module's buffers, so that tracing finds its tensors by another way."""

    class Unbound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            inner = TorchExportableModuleWithStaticCache(model)
            self._held = [inner.cache]

        def forward(self, input_ids: Tensor, cache_position: Tensor) -> Any:
            set_position(self._held[0], cache_position[0])
            return self.model(input_ids=input_ids, past_key_values=self._held[0], use_cache=True).logits

    with ready_to_trace(model):
        return torch.export.export(Unbound(), examples, dynamic_shapes=dynamic_shapes, strict=False)


def cache_twice(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Holds one cache tensor under two names."""

    def step(inner: Any, ids: Tensor, position: Tensor) -> Any:
        return inner(ids, position) + 0 * inner.also.sum()

    inner = TorchExportableModuleWithStaticCache(model)
    inner.register_buffer("also", inner.get_buffer("cache_0_keys").view(-1), persistent=False)
    with ready_to_trace(model):
        return torch.export.export(Faulty(inner, step), examples, dynamic_shapes=dynamic_shapes, strict=False)


def no_cache(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Decodes each call as if it were the first."""

    def step(inner: Any, ids: Tensor, position: Tensor) -> Any:
        return inner.model(input_ids=ids, position_ids=position.unsqueeze(0), use_cache=False).logits

    ids, position = examples
    return _export(model, step, ids, position, dynamic_shapes)


def not_core_aten(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Uses an operator outside the edge dialect."""

    def step(inner: Any, ids: Tensor, position: Tensor) -> Any:
        return inner(ids, position) + torch.bucketize(position, torch.arange(4)).sum() * 0.0

    ids, position = examples
    return _export(model, step, ids, position, dynamic_shapes)


def sorts(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Uses an operator of the edge dialect that has no kernel in the runtime."""

    def step(inner: Any, ids: Tensor, position: Tensor) -> Any:
        logits = inner(ids, position)
        return logits + torch.sort(logits)[0] * 0.0

    ids, position = examples
    return _export(model, step, ids, position, dynamic_shapes)


def kills_the_process(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Ends the process that exports, as a crash in native code would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def hangs(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Never comes back."""
    while True:
        time.sleep(1)


def takes_all_memory(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Asks for more and more memory, and touches it."""
    held = []
    while True:
        held.append(torch.ones(1 << 24))
