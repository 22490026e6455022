"""Assertions that would refuse one token at the last position."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conformance.reference.passes.last_position import allow_the_last_position

pytestmark = pytest.mark.torch


class _Bounded(nn.Module):
    """Reads an integer and asserts two upper bounds of it."""

    def forward(self, position: torch.Tensor) -> torch.Tensor:
        start = position.item()
        torch._check(start >= 0)
        torch._check(start < 8)
        torch._check(start <= 6)
        return torch.zeros(()) + start


def test_the_looser_of_two_bounds_is_kept() -> None:
    program = torch.export.export(_Bounded(), (torch.tensor(3),))
    with pytest.raises(RuntimeError):
        program.module()(torch.tensor(7))
    allow_the_last_position(program)
    assert program.module()(torch.tensor(7)) == 7
    for refused in (8, -1):
        with pytest.raises(RuntimeError):
            program.module()(torch.tensor(refused))
