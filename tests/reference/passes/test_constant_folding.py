"""Operators with one value, as that value."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conformance.reference.passes.constant_folding import fold_erfinv, fold_symbolic_maxima

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


def test_maximum_with_one_value_is_a_number() -> None:
    x = torch.arange(6)
    program = torch.export.export(_Maxima(), (x,), dynamic_shapes=({0: torch.export.Dim("seq", min=1, max=8)},))
    fold_symbolic_maxima(program)
    maxima = list(program.graph.find_nodes(op="call_function", target=torch.sym_max))
    assert [node.args[1] for node in maxima] == [4]  # of several values
    for length in (1, 3, 6):
        torch.testing.assert_close(program.module()(x[:length]), _Maxima()(x[:length]))


class _Maxima(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[0]
        product: torch.Tensor = x.sum() * torch.sym_max(length, 4) + torch.sym_max(1 - length, 0)
        return product
