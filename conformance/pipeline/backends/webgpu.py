"""WebGPU: lowered here, run in browsers. ExecuTorch's wheel for Linux registers no such delegate."""

from __future__ import annotations

from typing import Any

from conformance.pipeline.backends import vulkan
from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend


def partitioners() -> list[Any]:
    """ExecuTorch's WebGPU partitioner, which hands all over to Vulkan's: the programs have the same bytes.

    Without an allowlist it takes what Vulkan takes, also operators that WebGPU's runtime does not have yet. The list
    of those that it has is in ExecuTorch's tests alone (`WEBGPU_SUPPORTED_OPS` in backends/webgpu/test/tester.py).
    """
    with vulkan.root_logger_kept():
        from executorch.backends.webgpu.partitioner.partitioner import WebGPUPartitioner

    return [WebGPUPartitioner(dict(vulkan.OPTIONS))]


WEBGPU = Backend(
    "webgpu",
    partitioners,
    FLOAT32_TOLERANCE,
    delegating=True,
    summary="WebGPU, by Vulkan's partitioner",
    device="browsers, and GPUs with WebGPU",
    runs=False,
    declares=vulkan.declares,
)
