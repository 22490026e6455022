"""The wrapper: a causal language model whose static cache is made of the module's own buffers."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn
from transformers import PreTrainedModel, StaticCache

from conformance.reference.cache import allocated_cache, in_mid_sequence, set_integer_length, set_position, state_slots
from conformance.reference.calling import settled_convention
from conformance.reference.complex_numbers import RealPairs
from conformance.reference.settings import cache_settings
from conformance.reference.tracing import ready_to_trace


class TorchExportableModuleWithStaticCache(nn.Module):
    """Makes a `PreTrainedModel` exportable with `torch.export`, with a static cache hidden inside.

    The module's signature is the one ExecuTorch's LLM runner calls: token ids and cache position in, logits out. The
    cache is neither an input nor an output; each of its tensors is a buffer that a call updates in place, so the
    exported program keeps it between calls as mutable state.

    Export it under `torch.no_grad()` and in evaluation mode, or let
    [`convert_and_export_with_cache`][conformance.reference.convert_and_export_with_cache] do so.

    Attributes:
        cache: The cache, which holds this module's buffers as its states.
    """

    cache: StaticCache

    def __init__(self, model: PreTrainedModel, batch_size: int | None = None, max_cache_len: int | None = None) -> None:
        """Allocate the cache by running one token through `model`, which is left as it was.

        Args:
            model: The model to wrap. Its generation config must ask for the "static" cache implementation.
            batch_size: Rows per call. Defaults to `model.generation_config.cache_config["batch_size"]`.
            max_cache_len: Positions the cache holds, counted in tokens. Defaults to
                `model.generation_config.cache_config["max_cache_len"]`.

        Raises:
            ModelNotExportableError: A setting is missing or wrong; see `conformance.reference.settings`.
        """
        super().__init__()
        settings = cache_settings(model, batch_size, max_cache_len)
        self.model = model
        self.batch_size = settings.batch_size
        self.max_cache_len = settings.max_cache_len
        with ready_to_trace(model):
            self.cache = allocated_cache(model, settings)
            self._convention = settled_convention(model, self.cache, settings)
        in_mid_sequence(self.cache)
        self._slots = state_slots(self.cache)
        for slot in self._slots:
            # Not persistent: the cache is working memory, not a part of the checkpoint.
            self.register_buffer(slot.buffer_name, slot.read(self.cache), persistent=False)

    @property
    def sums_up(self) -> bool:
        """Whether the cache keeps convolution or recurrent state."""
        return any(slot.is_recurrent(self.cache) for slot in self._slots)

    def forward(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """Decode `input_ids` at `cache_position`, reading and updating the cache.

        Starting at position 0 begins a new sequence: whatever was decoded before has no influence. Starting at an
        earlier position than before forgets what followed it, except for convolution and recurrent state, which
        cannot be rewound.

        Args:
            input_ids: Token ids, int64, shape [batch_size, seq].
            cache_position: Where these tokens go in the cache, int64, shape [seq]; consecutive, the first one anywhere
                in [0, max_cache_len - seq].

        Returns:
            The logits, of the model's dtype, shape [batch_size, seq, vocab].

        Raises:
            IndexError: A token id is outside the vocabulary, a position outside the cache, or the positions are not
                consecutive. ExecuTorch's portable kernels give error 0x12 (InvalidArgument) for these.
        """
        return self._decode(_refused_unless_consecutive(input_ids, cache_position), cache_position, "input_ids")

    def _decode(self, tokens: torch.Tensor, cache_position: torch.Tensor, name: str) -> torch.Tensor:
        """The logits of `tokens`, which are what the model calls `name`."""
        start = cache_position[0]
        # Bound anew on each call, since tracing swaps the buffers for its own tensors: a cache that kept the original
        # ones would reach the graph a second time, as lifted constants, and the program could not be lowered.
        for slot in self._slots:
            buffer = self.get_buffer(slot.buffer_name)
            if slot.is_recurrent(self.cache):
                # `where`, not a product with 0: a state that has overflowed to inf or nan must be forgotten too.
                buffer.copy_(torch.where(start == 0, torch.zeros_like(buffer), buffer))
            slot.write(self.cache, buffer)
        set_position(self.cache, start)
        if self._convention.integer_length:
            set_integer_length(self.cache, start, self.max_cache_len)
        arguments = self._convention.arguments(tokens, cache_position, self.cache, self.max_cache_len, name)
        with RealPairs() if self._convention.complex_numbers else nullcontext():
            logits: torch.Tensor = self.model(**arguments).logits
        return logits


def _refused_unless_consecutive(input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
    """`input_ids`, with an id that every embedding refuses where positions are not consecutive.

    The cache writes from the first position on, wherever the others are, and an assertion does not outlive lowering.
    """
    length = cache_position.shape[0]
    if isinstance(length, int) and length == 1:  # compared only if no symbol: tracing would exclude 1 from the lengths
        return input_ids
    consecutive = cache_position[0] + torch.arange(length, device=cache_position.device)
    # Stacked, they must be as many as the tokens. Broadcasting finds out too late, if at all: a call that ExecuTorch
    # gives up within a scan leaves the scan's counter behind, and the next call begins from there.
    position = torch.stack((cache_position, input_ids[0]))[0]
    # One truth for the whole call: place by place, one token would be stretched over several positions. Of rank 1,
    # since ExecuTorch's passes for Arm cannot decompose an `any` of rank 0 (1.5.1).
    return torch.where((position != consecutive).any(dim=0, keepdim=True), -1, input_ids)
