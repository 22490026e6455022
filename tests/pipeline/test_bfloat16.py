"""XNNPACK in bfloat16: what it takes runs, and what it cannot run is left to portable kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch.nn import functional

from conformance.pipeline.backends import xnnpack

pytestmark = pytest.mark.torch

INPUT = torch.linspace(0.1, 1, 256).reshape(2, 4, 4, 8)


class _Calling(torch.nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.layer = function if isinstance(function, torch.nn.Module) else None

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return self.function(value)


def _executed(function: Any, partitioners: list[Any]) -> float:
    """Lower `function` in bfloat16 and run it; returns by how much its result is off, as a share of the largest."""
    module, value = _Calling(function).eval().to(torch.bfloat16), INPUT.to(torch.bfloat16)
    with torch.no_grad():
        expected = module(value).float()
        edge = to_edge_transform_and_lower(torch.export.export(module, (value,)), partitioner=partitioners)
        program = bytes(edge.to_executorch().buffer)  # which the runtime does not copy
    method: Any = Runtime.get().load_program(program).load_method("forward")
    return float((method.execute((value,))[0].float() - expected).abs().max() / expected.abs().max())


#: By operator, a function that is lowered to it.
REFUSED = {
    "_native_batch_norm_legit_no_training.default": torch.nn.BatchNorm2d(4),
    "_softmax.default": lambda value: value.softmax(-1),
    "avg_pool2d.default": lambda value: functional.avg_pool2d(value, 2),
    "bmm.default": lambda value: torch.bmm(value[:, 0], value[:, 1].transpose(1, 2)),
    "convolution.default": torch.nn.Conv2d(4, 4, 3),
    "max_pool2d.default": lambda value: functional.max_pool2d(value, 2),
    "mean.dim": lambda value: value.mean((-1, -2), keepdim=True),
    "upsample_bilinear2d.vec": lambda value: functional.interpolate(value, scale_factor=2, mode="bilinear"),
}


def test_each_operator_that_is_not_taken_has_its_test() -> None:
    assert set(REFUSED) == set(xnnpack.NOT_IN_BFLOAT16)
    assert set(REFUSED) <= {config.target_name for config in ALL_PARTITIONER_CONFIGS}


@pytest.mark.parametrize("operator", REFUSED)
def test_operator_that_xnnpack_lacks_is_left(operator: str) -> None:
    # Portable kernels sum up in bfloat16, which has 8 bits: a convolution is off by 2.4 %.
    assert _executed(REFUSED[operator], xnnpack.partitioners()) < 0.05
    # Should this ever load, it can be taken: remove it from NOT_IN_BFLOAT16.
    with pytest.raises(RuntimeError, match="0x:1"):
        _executed(REFUSED[operator], [XnnpackPartitioner(enable_bf16=True)])


@pytest.mark.parametrize("function", [torch.nn.Linear(8, 8), torch.sigmoid])
def test_operator_that_is_taken_runs(function: Any) -> None:
    assert _executed(function, xnnpack.partitioners()) < 0.02
