"""Masked updates as `masked_fill`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conformance.reference.passes.masked_fill import replace_index_put_with_masked_fill

pytestmark = pytest.mark.torch


def test_update_at_a_mask_is_masked_fill() -> None:
    class Masked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = x.clone()
            kept[x == 2] = 0
            kept[torch.arange(2)] = x[0]  # by index, which stays
            return kept

    x = torch.tensor([[1, 2], [2, 3], [2, 2]])
    program = torch.export.export(Masked(), (x,))
    replace_index_put_with_masked_fill(program)
    targets = [node.target for node in program.graph.nodes]
    assert torch.ops.aten.masked_fill_.Tensor in targets
    assert targets.count(torch.ops.aten.index_put_.default) == 1
    assert torch.equal(program.module()(x), Masked()(x))
