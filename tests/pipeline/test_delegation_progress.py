"""How far the making of delegates is."""

from __future__ import annotations

import pytest
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.exir.backend.backend_details import BackendDetails
from torch import Tensor, nn

from conformance.pipeline.delegation_progress import telling_delegates

pytestmark = pytest.mark.torch


class _ThreeParts(nn.Module):
    """What XNNPACK takes, with a cumulative sum between, which it does not."""

    def forward(self, values: Tensor) -> Tensor:
        return (((values + 1).cumsum(0) * 2).cumsum(0) + 3).abs()


def test_each_delegate_is_announced_before_it_is_made() -> None:
    message: list[tuple[int, int]] = []
    program = torch.export.export(_ThreeParts(), (torch.ones(4),))
    before = BackendDetails.__dict__["preprocess_multimethod"]
    with telling_delegates(lambda number, count: message.append((number, count))):
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    assert message == [(1, 3), (2, 3), (3, 3)]
    assert sum("lowered_module" in str(node.target) for node in lowered.exported_program().graph.nodes) == 3
    assert BackendDetails.__dict__["preprocess_multimethod"] is before
