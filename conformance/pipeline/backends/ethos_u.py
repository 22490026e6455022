"""Arm's Ethos-U55, compiled by Vela: lowered here, run on microcontrollers.

The NPU computes with integers. Linear layers are quantised to 8 bits on the exported program, and all else is left to
portable kernels: more does not lower with ExecuTorch 1.5.1. Its quantiser, left to itself, makes the cache position
int32, which torch's index_copy refuses; and attention in 8 bits loses the scores beside a mask of -3.4e38.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from conformance.pipeline.backends import quantised, tosa
from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend, Quantisation

#: 128 multipliers a cycle. Ethos-U85 does not lower: Vela 5.1 refuses the comparison that makes an attention mask
#: ("Output tensor aten_le_tensor does not have any writers").
_TARGET = "ethos-u55-128"
#: What ExecuTorch makes of that name (`EthosUCompileSpec._tosa_spec_for_target`).
_SPECIFICATION = "TOSA-1.0+INT+int16+int4+u55"


def partitioners() -> list[Any]:
    """ExecuTorch's partitioner for Ethos-U55."""
    from executorch.backends.arm.ethosu import EthosUCompileSpec, EthosUPartitioner

    return [EthosUPartitioner(EthosUCompileSpec(_TARGET))]


def with_linear_layers_in_8_bits(program: Any, examples: Any, shapes: Any, texts: Iterable[tuple[int, ...]]) -> Any:
    """The program with linear layers in 8 bits, by the ranges that `texts` showed."""
    import torch
    from executorch.backends.arm.ethosu import EthosUCompileSpec
    from executorch.backends.arm.quantizer import EthosUQuantizer, get_symmetric_quantization_config

    class Quantizer(EthosUQuantizer):  # type: ignore[misc]  # ExecuTorch has no types
        def transform_for_annotation(self, model: Any) -> Any:
            """Nothing: linear layers need no passes before, and one of those that others need fails."""
            return model

    quantizer = Quantizer(EthosUCompileSpec(_TARGET))
    for operator in (torch.ops.aten.linear.default, torch.ops.aten.addmm.default):
        quantizer.set_node_target(operator, get_symmetric_quantization_config(is_per_channel=True))
    return quantised.quantised_by_pt2e(quantizer, program, examples, shapes, texts)


def declares(operator: str) -> bool:
    """Whether it is in the list of TOSA's integer profile, or one that a check for Ethos-U55 looks at."""
    return operator in tosa.listed(_SPECIFICATION)


ETHOS_U55 = Backend(
    "ethos-u55",
    partitioners,
    FLOAT32_TOLERANCE,
    delegating=True,
    summary="Arm's Ethos-U55-128, linear layers in 8 bits by PT2E",
    device="microcontrollers with an Ethos-U55",
    weights="8 bits in linear layers",
    runs=False,
    owns_weights=True,
    # Vela is pinned by ExecuTorch's extra `ethos-u`.
    requires=("ethos-u-vela>=5.1,<5.2", *tosa.REQUIRES),
    pip_options=tosa.PIP_OPTIONS,
    declares=declares,
    requantise=with_linear_layers_in_8_bits,
    precision=quantised.AS_TORCH_DOES,
    quantisation=Quantisation(least_share=0.5, least_sqnr=10.0),
)
