"""XNNPACK in float32."""

from __future__ import annotations

from typing import Any

from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend


def partitioners() -> list[Any]:
    """ExecuTorch's XNNPACK partitioner, with all that it can take."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return [XnnpackPartitioner()]


def declares(operator: str) -> bool:
    """Whether XNNPACK's partitioner has a config for it."""
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS

    return any(config.target_name == operator for config in ALL_PARTITIONER_CONFIGS)


XNNPACK = Backend(
    "xnnpack", partitioners, FLOAT32_TOLERANCE, delegating=True, summary="XNNPACK in float32", declares=declares
)
