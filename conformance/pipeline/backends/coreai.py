"""Core AI: lowered here, run on Apple's systems from version 27 on."""

from __future__ import annotations

from typing import Any

from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend


def partitioners() -> list[Any]:
    """ExecuTorch's Core AI partitioner, also where another function than `to_edge_transform_and_lower` asks it.

    It looks for that name on the stack and refuses otherwise; LOW-2 asks what it would still take of a lowered program.

    ExecuTorch's own pass for it, which narrows 64-bit inputs, fails on a dynamic length (`NarrowToCoreAIDtypesPass`).
    Without it, operators with such inputs are left out: in llama 4 of 225, the embedding among them.
    """
    from executorch.backends.apple.coreai import CoreAIPartitioner

    class Partitioner(CoreAIPartitioner):  # type: ignore[misc]  # ExecuTorch has no types
        @staticmethod
        def _is_to_edge_transform_and_lower() -> bool:
            return True

    return [Partitioner()]


def edge() -> Any:
    """ExecuTorch's own setting for Core AI, without dimension orders, which coreai-torch does not know."""
    from executorch.exir import EdgeCompileConfig

    return EdgeCompileConfig(_skip_dim_order=True, _check_ir_validity=True)


def declares(operator: str) -> bool:
    """Whether coreai-torch has a translation for it, or for the view of which it is the copy."""
    from coreai_torch._aten_to_core import _aten_to_core_resolver

    return not {operator, operator.replace("_copy.", ".")}.isdisjoint(_aten_to_core_resolver)


COREAI = Backend(
    "coreai",
    partitioners,
    FLOAT32_TOLERANCE,
    delegating=True,
    summary="Core AI in float32",
    device="Apple's processors, by Core AI",
    runs=False,
    # ExecuTorch 1.5.1 calls `AIProgram.get_graph`, which coreai-core 1.0.0b3, that of coreai-torch 0.4.3, has no more;
    # releases before 0.4.2 refuse this torch.
    requires=("coreai-torch>=0.4.2,<0.4.3",),
    owns_state=True,
    edge=edge,
    declares=declares,
)
