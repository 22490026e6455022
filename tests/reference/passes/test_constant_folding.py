"""Operators of constants as their values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conformance.reference.passes.constant_folding import fold_erfinv

pytestmark = pytest.mark.torch


def test_inverse_error_function_of_a_constant_is_a_number() -> None:
    x = torch.tensor(0.25)
    program = torch.export.export(_Quantiles(), (x,))
    fold_erfinv(program)
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.aten.erfinv.default) == 1  # of the input
    torch.testing.assert_close(program.module()(x), _Quantiles()(x))


class _Quantiles(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quantile: torch.Tensor = torch.distributions.Normal(0, 1).icdf(torch.tensor(0.95))
        return quantile + torch.erfinv(x)
