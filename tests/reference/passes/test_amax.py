"""Maxima as `amax`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conformance.reference.passes.amax import replace_max_with_amax

pytestmark = pytest.mark.torch


def test_maximum_whose_indices_are_not_read_is_amax() -> None:
    program = torch.export.export(_Maxima(), (torch.randn(1, 2, 3, 5),))
    replace_max_with_amax(program)
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.aten.amax.default) == 1
    assert targets.count(torch.ops.aten.max.dim) == 1
    x = torch.randn(1, 2, 3, 5)
    for observed, expected in zip(program.module()(x), _Maxima()(x), strict=True):
        assert torch.equal(observed, expected)


class _Maxima(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x - x.max(dim=-1, keepdim=True).values, x.max(dim=2).indices
