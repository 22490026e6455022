"""Attention masks that `torch.export` can trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel, masking_utils

from conformance.reference.transformers_api import MASKS_BY_VMAP


@contextmanager
def broadcast_masks(_model: PreTrainedModel) -> Iterator[None]:
    """Compute attention masks by broadcasting indices, as 5.0 and later mostly do, for calls of any length.

    4.57 calls `torch.vmap` for all masks, and later versions for those to which a model adds a function of its own, as
    Falcon does up to 5.14. `torch.export` (torch 2.13) leaves tensors of it behind in programs; each call of one then
    fails with "your tensor may have escaped from inside a function being vmapped". Where a mask has blocks, Python asks
    whether the call is shorter than the cache (maybe_pad_block_sequence_ids), which excludes a call as long as that.

    The change is in `transformers.masking_utils`, so it holds for every model; it is undone on exit.
    """
    replacements = {**dict.fromkeys(MASKS_BY_VMAP, _broadcast), "maybe_pad_block_sequence_ids": _padded}
    originals = {name: getattr(masking_utils, name) for name in replacements if hasattr(masking_utils, name)}
    for name in originals:
        setattr(masking_utils, name, replacements[name])
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(masking_utils, name, function)


def _broadcast(mask_function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A function of rank-1 indices [batch], [heads], [queries], [keys] to the mask, bool, with all four dimensions."""

    def mask(*indices: torch.Tensor) -> torch.Tensor:
        return mask_function(*torch.meshgrid(*indices, indexing="ij"))

    return mask


def _padded(
    block_sequence_ids: torch.Tensor, _attention_mask: torch.Tensor | None, kv_length: int, kv_offset: int
) -> torch.Tensor:
    """The block of each token, [batch, seq], and -1 for none, with -1 for each further key that the mask has."""
    missing = kv_length + kv_offset - block_sequence_ids.shape[-1]
    return nn.functional.pad(block_sequence_ids, pad=(0, missing), value=-1)
