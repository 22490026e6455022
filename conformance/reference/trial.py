"""What a model allows, found by trying it before the export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from conformance.reference.errors import AttentionDoesNotFitError
from conformance.reference.tracing import ready_to_run
from conformance.reference.tracing.attention import AttentionDiffersError, compared_attention, grouped_attention
from conformance.reference.tracing.custom_attention import (
    compared_custom_attention,
    custom_attention,
    custom_layers,
)
from conformance.reference.wrapper import TorchExportableModuleWithStaticCache

#: Tokens of a trial, each in a call of its own; two more in one call, where a program takes several.
_SINGLE_TOKENS, _TOGETHER = 3, 2
#: Share of the largest logit by which those of a whole model may differ where each layer's attention agrees.
_LOGITS_TOLERANCE = 1e-3


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
            with compared_attention():
                compared = [wrapper(*call) for call in calls]
            with grouped_attention():
                grouped = wrapper(*calls[0])
        except Exception:  # whatever a model says of an attention that it was not written for
            return False
    # Equal to the last bit, since both use the model's own results: a model with a state of its own differs.
    return grouped.shape == expected[0].shape and all(map(torch.equal, compared, expected))


def adopt_custom_attention(
    wrapper: TorchExportableModuleWithStaticCache, example: torch.Tensor, *, several: bool
) -> None:
    """Give the wrapper a cache for ExecuTorch's own operators, after a trial that they compute the model's attention.

    Each layer's outputs are compared as by `can_group_attention`, and at the cache's last position too: there it shows
    which layers have a window.

    Args:
        wrapper: The wrapped model, with a cache of Transformers' own layout.
        example: An input of the wrapper: token ids, shape [batch, seq].
        several: Whether several tokens a call are to be tried too.

    Raises:
        AttentionDoesNotFitError: They do not compute it, or are not registered; the wrapper can no longer be used.
    """
    vocabulary = int(wrapper.model.config.get_text_config(decoder=True).vocab_size)
    calls = [*_calls(wrapper, example, several=several), _call(wrapper.max_cache_len - 1, 1, vocabulary, example)]
    with ready_to_run(wrapper.model, wrapper.max_cache_len):
        with _same_state(wrapper):
            expected = [wrapper(*call) for call in calls]
        wrapper.replace_layers(custom_layers(wrapper.cache))
        layers = wrapper.custom_layers
        if not layers:
            raise AttentionDoesNotFitError(
                f"attention is 'custom', but {_name(wrapper)} has no cache of keys and values"
            )
        with _same_state(wrapper):
            try:
                with compared_custom_attention(layers):
                    compared = [wrapper(*call) for call in calls]
                if not all(layer.read for layer in layers):
                    raise AttentionDiffersError("it is not looked up in Transformers' AttentionInterface")
                with custom_attention(layers, trial=True):
                    compared += [wrapper(*call) for call in calls]
            except Exception as error:  # whatever a model says of an attention that it was not written for
                raise AttentionDoesNotFitError(
                    "attention is 'custom', but ExecuTorch's llama::custom_sdpa does not compute that of "
                    f"{_name(wrapper)}: {error}; use 'portable'",
                ) from error
    if not all(map(_agree, compared, expected * 2)):
        raise AttentionDoesNotFitError(
            f"attention is 'custom', which changes the logits of {_name(wrapper)}; use 'portable'",
        )


def _agree(observed: torch.Tensor, expected: torch.Tensor) -> bool:
    bound = _LOGITS_TOLERANCE * expected.abs().max()
    return observed.shape == expected.shape and bool(((observed - expected).abs() <= bound).all())


def _name(wrapper: TorchExportableModuleWithStaticCache) -> str:
    return type(wrapper.model).__name__


def _calls(
    wrapper: TorchExportableModuleWithStaticCache, example: torch.Tensor, *, several: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    vocabulary = int(wrapper.model.config.get_text_config(decoder=True).vocab_size)
    start = 0
    for length in (*(1,) * _SINGLE_TOKENS, *(_TOGETHER,) * several):
        if start + length > wrapper.max_cache_len:
            return
        yield _call(start, length, vocabulary, example)
        start += length


def _call(start: int, length: int, vocabulary: int, example: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    positions = torch.arange(start, start + length, device=example.device)
    shape = (example.shape[0], length, *example.shape[2:])
    if example.is_floating_point():
        return torch.randn(shape, dtype=example.dtype, device=example.device), positions
    return ((7 * positions + 1) % vocabulary).expand(shape), positions


@contextmanager
def _same_state(wrapper: TorchExportableModuleWithStaticCache) -> Iterator[None]:
    before = {name: buffer.clone() for name, buffer in wrapper.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in wrapper.named_buffers():
            buffer.copy_(before[name])
