"""The wrapper: a causal language model whose static cache is buffers of the module."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, StaticCache

from conformance.reference.cache import (
    initial_state,
    report_in_progress,
    set_integer_length,
    set_position,
    state_slots,
)
from conformance.reference.positions import prepared_cache
from conformance.reference.settings import cache_settings, logits_returned
from conformance.reference.tracing.complex_numbers import RealPairs
from conformance.reference.tracing.custom_attention import CustomLayer, set_start
from conformance.reference.transformers_api import mark_mid_sequence


class TorchExportableModuleWithStaticCache(nn.Module):
    """Makes a `PreTrainedModel` exportable with `torch.export`, with a static cache hidden inside.

    The module's signature is the one ExecuTorch's LLM runner calls: token ids and cache position in, logits out. The
    cache is neither an input nor an output; each of its tensors is a buffer that a call updates in place, so the
    exported program keeps it between calls as mutable state.

    Export it under `torch.no_grad()` and in evaluation mode, or with
    [`convert_and_export_with_cache`][conformance.reference.convert_and_export_with_cache], which does so.

    Attributes:
        cache: The cache, which holds this module's buffers as its states.
    """

    cache: StaticCache

    def __init__(
        self,
        model: PreTrainedModel,
        batch_size: int | None = None,
        max_cache_len: int | None = None,
        *,
        logits_to_keep: int = 0,
    ) -> None:
        """Allocate the cache by running a few tokens through `model`, which is unchanged afterwards.

        Args:
            model: The model to wrap. Its generation config must ask for the "static" cache implementation.
            batch_size: Rows per call. Defaults to `model.generation_config.cache_config["batch_size"]`.
            max_cache_len: Positions in the cache, in tokens. Defaults to
                `model.generation_config.cache_config["max_cache_len"]`.
            logits_to_keep: Of how many of a call's last tokens the logits are returned; 0 for all. Computing those of a
                prompt's last token alone saves `seq - 1` rows of the vocabulary's size.

        Raises:
            ModelNotExportableError: A setting is missing or wrong; see `conformance.reference.settings`. It is a
                `PositionsEndError` where the model has no position for the cache's last slot.
        """
        super().__init__()
        settings = cache_settings(model, batch_size, max_cache_len)
        self.logits_to_keep = logits_returned(model, logits_to_keep)
        self.model = model
        self.batch_size = settings.batch_size
        self.max_cache_len = settings.max_cache_len
        self.cache, self._convention = prepared_cache(model, settings)
        mark_mid_sequence(self.cache.layers)
        self._register_cache()

    def _register_cache(self) -> None:
        self._slots = state_slots(self.cache)
        for slot in self._slots:
            # Not persistent: the cache is working memory, not a part of the checkpoint.
            self.register_buffer(slot.buffer_name, slot.read(self.cache), persistent=False)

    def replace_layers(self, layers: Sequence[Any]) -> None:
        """Use other layers, in the same order, with tensors of the same names; see `tracing.custom_attention`."""
        self.cache.layers = list(layers)
        self._register_cache()

    @property
    def custom_layers(self) -> list[CustomLayer]:
        """The layers of the cache that ExecuTorch's own operators update; empty where ATen's do."""
        return [layer for layer in self.cache.layers if isinstance(layer, CustomLayer)]

    @property
    def has_recurrent_state(self) -> bool:
        """Whether the cache has convolution or recurrent state, which cannot be rewound."""
        return any(slot.is_recurrent(self.cache) for slot in self._slots)

    def forward(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """Decode `input_ids` at `cache_position`, reading and updating the cache.

        Starting at position 0 begins a new sequence: earlier calls have no influence. Starting at an earlier position
        than before discards what followed it, except for convolution and recurrent state, which cannot be rewound.

        Args:
            input_ids: Token ids, int64, shape [batch_size, seq].
            cache_position: The tokens' positions in the cache, int64, shape [seq]; consecutive, the first one in
                [0, max_cache_len - seq].

        Returns:
            The logits, of the model's dtype, shape [batch_size, seq, vocab], or [batch_size, logits_to_keep, vocab].

        Raises:
            IndexError: A token id is outside the vocabulary, a position outside the cache, or the positions are not
                consecutive. ExecuTorch's portable kernels return error 0x12 (InvalidArgument) for these.
        """
        tokens = _invalid_unless_consecutive(input_ids, cache_position)
        if self.custom_layers:
            tokens = _invalid_for_operators(tokens, cache_position)
        return self._decode(tokens, cache_position, "input_ids")

    def _decode(self, tokens: torch.Tensor, cache_position: torch.Tensor, name: str) -> torch.Tensor:
        """The logits of `tokens`, which `model.forward` takes as its argument `name`."""
        start = cache_position[0]
        # Bound anew on each call, since tracing swaps the buffers for its own tensors: a cache that kept the original
        # ones would reach the graph a second time, as lifted constants, and the program could not be lowered.
        for slot in self._slots:
            buffer = self.get_buffer(slot.buffer_name)
            if slot.is_recurrent(self.cache):
                # `where`, not a product with 0: a state that has overflowed to inf or nan must be cleared too.
                buffer.copy_(torch.where(start == 0, initial_state(self.model, slot, buffer), buffer))
            slot.write(self.cache, buffer)
        set_position(self.cache, start)
        if self.custom_layers:
            set_start(self.custom_layers, start, self.max_cache_len)
        if self._convention.in_progress:
            report_in_progress(self.cache)
        elif self._convention.integer_length:
            set_integer_length(self.cache, start, self.max_cache_len)
        arguments = self._convention.arguments(tokens, cache_position, self.cache, self.max_cache_len, name)
        if self.logits_to_keep:
            arguments["logits_to_keep"] = self.logits_to_keep
        with RealPairs() if self._convention.complex_numbers else nullcontext():
            logits: torch.Tensor = self.model(**arguments).logits
        return logits


def _invalid_unless_consecutive(input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
    """`input_ids`, or -1 in their place, which every embedding refuses, if the positions are not consecutive.

    The cache writes from the first position on and ignores the others, and lowering removes assertions.
    """
    length = cache_position.shape[0]
    if isinstance(length, int) and length == 1:  # not if a symbol: tracing would exclude 1 from the lengths
        return input_ids
    consecutive = cache_position[0] + torch.arange(length, device=cache_position.device)
    # Stacking requires as many positions as tokens. Broadcasting would fail too late, if at all: where a
    # call fails within a scan, ExecuTorch keeps the scan's counter, and the next call begins from there.
    position = torch.stack((cache_position, input_ids[0]))[0]
    # One condition for the whole call: elementwise, one token would be broadcast over several positions. Of rank 1,
    # since ExecuTorch's passes for Arm cannot decompose an `any` of rank 0 (1.5.1).
    return torch.where((position != consecutive).any(dim=0, keepdim=True), -1, input_ids)


def _invalid_for_operators(input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
    """`input_ids`, or -1 in their place, which every embedding refuses, if the first position is negative.

    `llama::update_cache` checks no lower bound (ExecuTorch 1.5.1): it would write in front of the cache. And
    `llama::custom_sdpa` ends the process where a mask has fewer rows than there are queries: with a dynamic length, a
    program takes two rows of one token for one of two, which stacking refuses.
    """
    length = cache_position.shape[0]
    if not isinstance(length, int) or length != 1:
        input_ids = torch.stack((input_ids, cache_position.expand_as(input_ids)))[0]
    return torch.where(cache_position[:1] < 0, -1, input_ids)
