"""Views with a size to infer, and aliases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conformance.reference.passes.views import infer_dynamic_sizes, remove_aliases

pytestmark = pytest.mark.torch

_aten = torch.ops.aten


class _Views(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows, seq, width = x.shape
        heads = x.view(rows, seq, -1, 4)
        merged = heads.reshape(rows, seq, width)
        turned = heads.transpose(1, 2).reshape(rows * 2, -1, 4)
        split = turned.view(rows, 2, seq, 4)
        return heads, merged, turned, split, x.view(-1), x.view(seq, 4, 2)


def test_one_symbolic_size_is_inferred() -> None:
    shapes = {"x": {1: torch.export.Dim("seq", min=1, max=16)}}
    program = torch.export.export(_Views(), (torch.randn(1, 3, 8),), dynamic_shapes=shapes)
    infer_dynamic_sizes(program)
    found = [node for node in program.graph.nodes if node.target in (_aten.view.default, _aten.reshape.default)]
    assert [list(node.args[1]) for node in found] == [
        *([1, -1, 2, 4], [1, -1, 8], [2, -1, 4], [1, 2, -1, 4], [-1], [-1, 4, 2])
    ]
    assert [node.target for node in found].count(_aten.reshape.default) == 1, "of what is not contiguous"
    for seq in (1, 5):
        x = torch.randn(1, seq, 8)
        for observed, expected in zip(program.module()(x), _Views()(x), strict=True):
            assert torch.equal(observed, expected)


class _Whole(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x[:, slice(0, None)] + x[..., 0:8]


class _Alias(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.alias.default(2 * x)  # type: ignore[no-any-return]  # torch's operators have no types


def test_a_result_keeps_its_name() -> None:
    program = torch.export.export(_Alias(), (torch.ones(3),))
    remove_aliases(program)
    assert torch.equal(program.module()(torch.ones(3)), 2 * torch.ones(3))


def test_a_slice_of_everything_is_gone() -> None:
    program = torch.export.export(_Whole(), (torch.randn(1, 3, 8),))
    remove_aliases(program)
    assert not list(program.graph.find_nodes(op="call_function", target=_aten.alias.default))
    x = torch.randn(1, 3, 8)
    assert torch.equal(program.module()(x), _Whole()(x))
