"""Arm's VGF, TOSA for Vulkan's ML extensions: lowered here, run where a driver or Arm's emulation layer has them."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

from conformance.pipeline.backends import tosa
from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend


def partitioners() -> list[Any]:
    """ExecuTorch's VGF partitioner for TOSA's float profile; the default profile takes nothing more of float32."""
    from executorch.backends.arm.vgf import VgfCompileSpec
    from executorch.backends.arm.vgf.partitioner import VgfPartitioner

    return [VgfPartitioner(VgfCompileSpec(tosa.SPECIFICATION))]


VGF = Backend(
    "vgf",
    partitioners,
    FLOAT32_TOLERANCE,
    delegating=True,
    summary="Arm's VGF, from TOSA's float profile",
    device="GPUs with Vulkan's extensions for machine learning",
    runs=False,
    owns_weights=True,
    # ExecuTorch's extra `vgf` pins 0.10, which needs glibc 2.38; 0.11 needs 2.28, and passes ExecuTorch's check too.
    requires=("ai_ml_sdk_model_converter>=0.11", *tosa.REQUIRES),
    pip_options=tosa.PIP_OPTIONS,
    # ExecuTorch looks for the program on PATH, where an environment that is not activated does not have it.
    environment=(("MODEL_CONVERTER_PATH", str(Path(sysconfig.get_path("scripts"), "model-converter"))),),
    declares=tosa.declares,
)
