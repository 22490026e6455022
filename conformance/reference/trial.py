"""What a model allows, found by trying it before the export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from conformance.reference.tracing import ready_to_run
from conformance.reference.tracing.attention import compared_attention, grouped_attention
from conformance.reference.wrapper import TorchExportableModuleWithStaticCache

#: Tokens of a trial, each in a call of its own; two more in one call, where a program takes several.
_SINGLE_TOKENS, _TOGETHER = 3, 2


def can_group_attention(wrapper: TorchExportableModuleWithStaticCache, example: torch.Tensor, *, several: bool) -> bool:
    """Whether the model computes its attention by functions that `GroupedAttention` can stand for.

    Each layer's outputs are compared in a few calls. The wrapper is unchanged afterwards.

    Args:
        wrapper: The wrapped model.
        example: An input of the wrapper: token ids, shape [batch, seq], or embeddings, shape [batch, seq, hidden].
        several: Whether several tokens a call are to be tried too.
    """
    calls = list(_calls(wrapper, example, several=several))
    with ready_to_run(wrapper.model, wrapper.max_cache_len), _same_state(wrapper):
        expected = [wrapper(*call) for call in calls]
        try:
            with compared_attention(wrapper.model):
                compared = [wrapper(*call) for call in calls]
            with grouped_attention(wrapper.model):
                grouped = wrapper(*calls[0])
        except Exception:  # whatever a model says of an attention that it was not written for
            return False
    # Equal to the last bit, since both use the model's own results: some go another way by the implementation's name.
    return grouped.shape == expected[0].shape and all(map(torch.equal, compared, expected))


def _calls(
    wrapper: TorchExportableModuleWithStaticCache, example: torch.Tensor, *, several: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    vocabulary = int(wrapper.model.config.get_text_config(decoder=True).vocab_size)
    start = 0
    for length in (*(1,) * _SINGLE_TOKENS, *(_TOGETHER,) * several):
        if start + length > wrapper.max_cache_len:
            return
        positions = torch.arange(start, start + length, device=example.device)
        shape = (example.shape[0], length, *example.shape[2:])
        if example.is_floating_point():
            tokens = torch.randn(shape, dtype=example.dtype, device=example.device)
        else:
            tokens = ((7 * positions + 1) % vocabulary).expand(shape)
        yield tokens, positions
        start += length


@contextmanager
def _same_state(wrapper: TorchExportableModuleWithStaticCache) -> Iterator[None]:
    before = {name: buffer.clone() for name, buffer in wrapper.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in wrapper.named_buffers():
            buffer.copy_(before[name])
