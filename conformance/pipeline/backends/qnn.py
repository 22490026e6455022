"""Qualcomm's QNN for the HTP in float16: lowered here, run on Snapdragon devices."""

from __future__ import annotations

import copy
import ctypes
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend

#: The libraries that ExecuTorch's adaptor opens by name, of which its own wheel has none.
_LIBRARIES = ("libQnnSystem.so", "libQnnHtp.so")


def partitioners() -> list[Any]:
    """ExecuTorch's QNN partitioner for Snapdragon 8 Gen 3."""
    _load_libraries()
    from executorch.backends.qualcomm.partition.qnn_partitioner import QnnPartitioner
    from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
    from executorch.backends.qualcomm.utils.utils import (
        generate_htp_compiler_spec,
        generate_qnn_executorch_compiler_spec,
    )

    specs = generate_qnn_executorch_compiler_spec(QcomChipset.SM8650, generate_htp_compiler_spec(use_fp16=True))
    return [QnnPartitioner(specs)]


def _load_libraries() -> None:
    """Load QNN from the package that has it. A library that is loaded is found by name, wherever it lies.

    LD_LIBRARY_PATH would have to be set before Python starts.
    """
    found = find_spec("onnxruntime_qnn")
    assert found is not None
    assert found.origin is not None
    for library in _LIBRARIES:
        ctypes.CDLL(str(Path(found.origin).with_name(library)))


def with_export_passes(program: Any, *_: Any) -> Any:
    """The program after ExecuTorch's passes for QNN on exported ones. Without them `pow` by a number is left out."""
    from executorch.backends.qualcomm._passes.qnn_pass_manager import get_qnn_pass_manager_cls

    return get_qnn_pass_manager_cls()().transform_for_export_pipeline(copy.deepcopy(program))


def passes() -> list[Any]:
    """ExecuTorch's own for QNN, as `to_edge_transform_and_lower_to_qnn` applies them: int64 becomes int32, and more."""
    from executorch.backends.qualcomm._passes.qnn_pass_manager import get_qnn_pass_manager_cls
    from executorch.exir.pass_base import ExportedProgramPassBase, ExportedProgramPassResult

    class Passes(ExportedProgramPassBase):  # type: ignore[misc]  # ExecuTorch has no types
        def call(self, program: Any) -> Any:
            return ExportedProgramPassResult(get_qnn_pass_manager_cls()().transform_for_to_edge_pipeline(program), True)

    return [Passes()]


def edge() -> Any:
    """ExecuTorch's own setting for QNN: what its passes make is not valid in the edge dialect."""
    from executorch.backends.qualcomm.utils.utils import qnn_edge_config

    return qnn_edge_config()


QNN = Backend(
    "qnn",
    partitioners,
    FLOAT32_TOLERANCE,
    delegating=True,
    summary="Qualcomm's QNN, HTP in float16, for Snapdragon 8 Gen 3",
    device="the NPU of a Snapdragon 8 Gen 3",
    weights="float16",
    runs=False,
    owns_weights=True,
    # ONNX Runtime's plugin, with the libraries of QNN 2.49.40; no other package in PyPI has them for Linux. Those of
    # 2.47 (2.3.0), 2.50 (2.6.0) and 2.51 (2.7.0) refuse the device that ExecuTorch 1.5.1 asks for (error 14001).
    requires=("onnxruntime-qnn==2.5.0",),
    pip_options=("--no-deps",),
    # Else ExecuTorch downloads the SDK of 1.3 GB.
    environment=(("QNN_SDK_ROOT", ""),),
    requantise=with_export_passes,
    edge=edge,
    passes=passes,
)
