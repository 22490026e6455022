"""Means of rows as products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conformance.reference.passes.means import replace_means_with_products

pytestmark = pytest.mark.torch

_MEAN = torch.ops.aten.mean.dim


class _Means(nn.Module):
    """Four means that are rewritten, and four that are not."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        half = x.to(torch.bfloat16)
        heads = x.view(1, -1, 3, 8).transpose(1, 2)
        rewritten = (
            *(x.mean(-1, keepdim=True), x.pow(2).mean(dim=[2], keepdim=True), x[0].mean(-1, keepdim=True)),
            heads.mean(-1, keepdim=True),
        )
        kept = (x.mean(-1), x.mean(1, keepdim=True), half.mean(-1, keepdim=True), half.mean(-1, True, dtype=x.dtype))
        return (*rewritten, *kept)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_mean_of_rows_is_a_product(dynamic: bool) -> None:
    shapes = {"x": {1: torch.export.Dim("seq", min=1, max=16)}} if dynamic else None
    program = torch.export.export(_Means(), (torch.randn(1, 4, 24),), dynamic_shapes=shapes)
    replace_means_with_products(program)
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(_MEAN) == 4
    assert targets.count(torch.ops.aten.mm.default) == 4
    x = torch.randn(1, 7 if dynamic else 4, 24)
    for observed, expected in zip(program.module()(x), _Means()(x), strict=True):
        assert observed.dtype == expected.dtype
        assert torch.allclose(observed.float(), expected.float(), atol=1e-6)


def test_rewritten_program_can_be_decomposed() -> None:
    program = torch.export.export(_Means(), (torch.randn(1, 4, 24),))
    replace_means_with_products(program)
    again = program.run_decompositions({})
    x = torch.randn(1, 4, 24)
    assert torch.equal(again.module()(x)[0], program.module()(x)[0])
    assert set(program.constants) == {"mean_of_24_0", "mean_of_24_1", "mean_of_24_2", "mean_of_8_0"}
