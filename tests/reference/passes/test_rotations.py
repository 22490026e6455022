"""Rotations of halves as products."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from conformance.reference.passes.rotations import replace_rotations_with_products

pytestmark = pytest.mark.torch

Function = Callable[[torch.Tensor], torch.Tensor]


class _Applied(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x.transpose(1, 2))


def _rotated(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def _products(function: Function, *, dynamic: bool = True) -> int:
    """How many products the pass makes of it; its values are the same to the last bit."""
    shapes = {"x": {1: torch.export.Dim("seq", min=1, max=16)}} if dynamic else None
    program = torch.export.export(_Applied(function), (torch.randn(1, 4, 3, 8),), dynamic_shapes=shapes)
    replace_rotations_with_products(program)
    x = torch.randn(1, 5 if dynamic else 4, 3, 8)
    assert torch.equal(program.module()(x), _Applied(function)(x))
    return sum(node.target is torch.ops.aten.mm.default for node in program.graph.nodes)


def test_a_rotation_with_a_dynamic_length_is_a_product() -> None:
    assert _products(_rotated) == 1
    assert _products(lambda x: _rotated(x) * 2 + _rotated(x + 1)) == 2


def test_a_rotation_with_a_fixed_length_stays() -> None:
    assert _products(_rotated, dynamic=False) == 0


@pytest.mark.parametrize(
    "other",
    [
        lambda x: torch.cat((x[..., 4:], x[..., :4]), dim=-1),  # not negated
        lambda x: torch.cat((-x[..., :4], x[..., 4:]), dim=-1),  # halves in their own order
        lambda x: torch.cat((-x[..., 6:], x[..., :6]), dim=-1),  # not halves
        lambda x: torch.cat((-x[..., 4:], (2 * x)[..., :4]), dim=-1),  # of two tensors
        lambda x: torch.cat((-x[:, 2:], x[:, :2]), dim=1),  # another dimension
        lambda x: torch.cat((-x[..., 4:], x[..., :4], x), dim=-1),
        lambda x: torch.cat((-x[..., 1::2], x[..., ::2]), dim=-1),  # every other element
        lambda x: _rotated(x.double()).float(),
    ],
)
def test_nothing_else_is_taken_for_a_rotation(other: Function) -> None:
    assert _products(other) == 0
