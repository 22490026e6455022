"""Splits as slices."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

from conformance.reference.passes.slices import replace_splits_with_slices

pytestmark = pytest.mark.torch


def test_splits_of_a_tensor_with_a_dynamic_first_dimension_are_slices() -> None:
    seq = Dim("seq", min=2, max=8)
    program = torch.export.export(_Splits(), (torch.randn(3, 6),), dynamic_shapes={"x": {0: seq}})
    replace_splits_with_slices(program)
    targets = {node.target for node in program.graph.nodes}
    assert not targets & {torch.ops.aten.chunk.default, torch.ops.aten.split_with_sizes.default}
    assert torch.ops.aten.split.Tensor in targets  # split along the first dimension of the weight, which is static
    for rows in (2, 8):
        x = torch.randn(rows, 6)
        torch.testing.assert_close(program.module()(x), _Splits()(x))


class _Splits(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        one, other = x.split([2, 4], dim=1)
        first, _ = torch.arange(6.0).split(3)
        return torch.cat([gate * up * first, one, other], dim=-1)
