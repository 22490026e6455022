"""Attention masks by broadcasting, as if versions of Transformers that use `torch.vmap` were installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import masking_utils

from conformance.reference.tracing.masks import broadcast_masks
from conformance.reference.transformers_api import MASKS_BY_VMAP

pytestmark = pytest.mark.torch

#: Masks are the same for any model.
_MODEL: Any = None


@pytest.mark.parametrize("name", ["_vmap_for_bhqkv", "_vmap_expansion_sdpa"])
def test_masks_by_broadcasting_are_those_by_vmap(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def vmapped(mask_function: Any) -> Any:
        """As all versions do it, by either name."""
        for dims in [(None, None, None, 0), (None, None, 0, None), (None, 0, None, None), (0, None, None, None)]:
            mask_function = torch.vmap(mask_function, in_dims=dims, out_dims=0)
        return mask_function

    padding = torch.tensor([[False, True, True, True], [True, True, True, True]])
    window = masking_utils.sliding_window_causal_mask_function(2)
    # What Falcon adds up to 5.14: it asks for no index at all.
    added = masking_utils.and_masks(window, lambda *indices: torch.tensor(True))
    indices = torch.arange(2), torch.arange(1), torch.arange(1, 4), torch.arange(4)
    monkeypatch.setattr(masking_utils, name, vmapped, raising=False)
    expected = vmapped(window)(*indices)
    with broadcast_masks(_MODEL):
        broadcast: Any = getattr(masking_utils, name)
        assert broadcast is not vmapped
        assert torch.equal(broadcast(window)(*indices), expected)
        assert torch.equal(broadcast(added)(*indices), expected)
        padded = broadcast(lambda b, h, q, kv: window(b, h, q, kv) & padding[b, kv])(*indices)
        assert torch.equal(padded, expected & padding[:, None, None, :])
    assert getattr(masking_utils, name) is vmapped


def test_masks_without_vmap_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*MASKS_BY_VMAP, "maybe_pad_block_sequence_ids"):
        monkeypatch.delattr(masking_utils, name, raising=False)
    before = dict(vars(masking_utils))
    with broadcast_masks(_MODEL):
        assert vars(masking_utils) == before


@pytest.mark.parametrize("seq", [1, 3, 4])
def test_blocks_are_padded_to_the_keys(seq: int) -> None:
    blocks = torch.arange(seq).unsqueeze(0)
    expected = masking_utils.maybe_pad_block_sequence_ids(blocks, None, 4, 0)
    with broadcast_masks(_MODEL):
        assert torch.equal(masking_utils.maybe_pad_block_sequence_ids(blocks, None, 4, 0), expected)
