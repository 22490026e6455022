"""Which weights a program multiplies by, and which it only scales with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conformance.checks.matmul import multiplies_by

pytestmark = pytest.mark.torch


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.ones(4, 4))
        self.experts = nn.Parameter(torch.ones(3, 4, 4))
        self.taps = nn.Parameter(torch.ones(4, 1, 2))
        self.scale = nn.Parameter(torch.ones(3, 4))
        self.vector = nn.Parameter(torch.ones(1, 4, 1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 [3, 4] to [3, 4, 3]."""
        scaled = nn.functional.linear(hidden * self.scale, self.projection)
        chosen = torch.bmm(scaled.unsqueeze(1), self.experts.transpose(1, 2)[0:3].contiguous())
        return nn.functional.conv1d(chosen.transpose(1, 2).expand(3, 4, 4), self.taps, groups=4) * self.vector


@pytest.mark.parametrize(
    ("weight", "multiplied"),
    [("projection", True), ("experts", True), ("taps", True), ("scale", False), ("vector", False), ("absent", False)],
)
def test_a_weight_is_followed_to_the_product_that_uses_it(weight: str, multiplied: bool) -> None:
    program = torch.export.export(_Model().eval(), (torch.ones(3, 4),))
    assert multiplies_by(program, weight) is multiplied
