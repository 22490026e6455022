"""Attention masks without `torch.vmap`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel, masking_utils

from conformance.reference.transformers_api import MASKS_BY_VMAP


@contextmanager
def broadcast_masks(_model: PreTrainedModel) -> Iterator[None]:
    """Compute attention masks by broadcasting indices, as 5.0 and later mostly do; undone on exit.

    4.57 calls `torch.vmap` for all masks, and later versions for those to which a model adds a function of its own, as
    Falcon does up to 5.14. `torch.export` (torch 2.13) leaves tensors of it behind in programs; each call of one then
    fails with "your tensor may have escaped from inside a function being vmapped".

    The change is in `transformers.masking_utils`, so it holds for every model.
    """
    originals = {name: getattr(masking_utils, name) for name in MASKS_BY_VMAP if hasattr(masking_utils, name)}
    for name in originals:
        setattr(masking_utils, name, _broadcast)
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
