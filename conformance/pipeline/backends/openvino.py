"""OpenVINO on the CPU. Dynamic lengths do not lower; in mode decode a program is one delegate."""

from __future__ import annotations

from functools import cache
from typing import Any

from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend

#: The one device that every machine has; also what the runtime assumes.
_DEVICE = "CPU"
_PREFIX = "torch.ops."


def partitioners() -> list[Any]:
    """The partitioner, for the CPU.

    Its `op_types_to_skip` and `op_names_to_skip` are of no use: `is_node_supported` says yes before it looks at them.
    """
    from executorch.backends.openvino.partitioner import OpenvinoPartitioner
    from executorch.exir.backend.compile_spec_schema import CompileSpec

    return [OpenvinoPartitioner([CompileSpec("device", _DEVICE.encode())])]


def declares(operator: str) -> bool:
    """Whether it is in the table that the partitioner's `is_node_supported` reads. There is no public way to ask."""
    return operator in _listed()


@cache
def _listed() -> frozenset[str]:
    from executorch.backends.openvino.partitioner import OpenvinoOperatorsSupport
    from openvino.frontend.pytorch.torchdynamo.op_support import OperatorSupport

    names = {*OperatorSupport([])._support_dict, *OpenvinoOperatorsSupport.extended_support_dict}
    return frozenset(".".join(name.split(".")[-2:]) for name in names if name.startswith(_PREFIX))


OPENVINO = Backend(
    "openvino",
    partitioners,
    # 3e-7 to 2.1e-6 over the core architectures and a full cache, as for the other backends.
    FLOAT32_TOLERANCE,
    delegating=True,
    summary="OpenVINO on the CPU, mode decode only",
    device="Intel's processors",
    # nncf only because `executorch.backends.openvino` imports its quantizer; lowering float32 runs no line of it.
    requires=("openvino>=2025.4.1,<2026", "nncf>=3.1,<3.2"),
    delegates=("OpenvinoBackend",),
    declares=declares,
    # Two faults depend on the machine without it. With AVX512-BF16 or AMX, OpenVINO infers in bfloat16 (logits off by
    # 6e-3 to 3e-2 of their scale), and neither ExecuTorch's compile specs nor its runtime can ask for float32: a
    # delegate is compiled again when it is loaded, with the machine's default. And its RMS kernel crashes on rows
    # shorter than a vector, 16 floats with AVX-512 and 8 with AVX2; the fixtures' heads have 8
    # (https://github.com/openvinotoolkit/openvino/pull/35912).
    environment=(("ONEDNN_MAX_CPU_ISA", "AVX2"),),
)
