"""Core ML: lowered here, run on Apple's systems."""

from __future__ import annotations

from typing import Any

from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend


def partitioners() -> list[Any]:
    """ExecuTorch's Core ML partitioner, in float32 and for iOS 18 on, the first to have state.

    Core ML computes in float16 by default, whatever the program's own type.
    """
    import coremltools as ct
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=ct.target.iOS18, compute_precision=ct.precision.FLOAT32
    )
    return [CoreMLPartitioner(compile_specs=specs, take_over_mutable_buffer=True)]


def declares(operator: str) -> bool:
    """Whether coremltools has a translation for it, whatever the overload.

    The partitioner asks the same question and hardly another: types and arguments are not looked at.
    """
    import executorch.backends.apple.coreml.compiler.torch_ops  # noqa: F401 - registers ExecuTorch's own operators
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
    from coremltools.converters.mil.frontend.torch.utils import sanitize_op_kind

    return sanitize_op_kind(operator) in _TORCH_OPS_REGISTRY


COREML = Backend(
    "coreml",
    partitioners,
    FLOAT32_TOLERANCE,
    delegating=True,
    summary="Core ML in float32, for iOS 18 and later, which keeps the cache as its own state",
    device="Apple's CPUs, GPUs and Neural Engines",
    runs=False,
    # ExecuTorch itself requires it on Linux x86-64.
    requires=("coremltools>=9,<10",),
    owns_state=True,
    declares=declares,
)
