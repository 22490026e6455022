"""Buffers that nothing reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conformance.reference.passes.unread import remove_unread_buffers

pytestmark = pytest.mark.torch


def test_buffers_that_are_read_or_written_stay() -> None:
    program = torch.export.export(_Buffers(), (torch.randn(3),))
    remove_unread_buffers(program)
    assert {spec.target for spec in program.graph_signature.input_specs if spec.target} == {"read", "written"}
    assert {*program.state_dict, *program.constants} == {"read", "written"}
    module, x = program.module(), torch.randn(3)
    assert torch.equal(module(x), x + 1)
    assert torch.equal(module.get_buffer("written"), x)


class _Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("read", torch.ones(3))
        self.register_buffer("written", torch.zeros(3))
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("not_kept", torch.arange(4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.get_buffer("written").copy_(x)
        return x + self.get_buffer("read")
