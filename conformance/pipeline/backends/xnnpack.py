"""XNNPACK, in whatever dtype the program has: float32, float16 or bfloat16."""

from __future__ import annotations

from typing import Any

from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, SMALL_OPERATORS, Backend

#: With `enable_bf16`, ExecuTorch's partitioner takes all of its operators in bfloat16; programs with these ones then do
#: not load (0x1, tried one by one): XNNPACK has the fully connected layer, elementwise ones and data movement
#: (https://github.com/google/XNNPACK/issues/9728). Gemma 2's attention, which is products of batches, would be lost.
NOT_IN_BFLOAT16 = (
    "_native_batch_norm_legit_no_training.default",
    "_softmax.default",
    "avg_pool2d.default",
    "bmm.default",
    "convolution.default",
    "max_pool2d.default",
    "mean.dim",
    "upsample_bilinear2d.vec",
)


def partitioners() -> list[Any]:
    """ExecuTorch's XNNPACK partitioner, with all that it can take and XNNPACK can run.

    bfloat16 is an option that is off by default (https://github.com/pytorch/executorch/pull/21493): all of such a model
    is left to portable kernels silently (https://github.com/pytorch/executorch/issues/21859). Older releases of
    ExecuTorch ignore the option.
    """
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    configs = [
        _without_bfloat16(config) if config.target_name in NOT_IN_BFLOAT16 else config
        for config in ALL_PARTITIONER_CONFIGS
    ]
    return [XnnpackPartitioner(configs=configs, enable_bf16=True)]


def _without_bfloat16(config: Any) -> Any:
    """The same rule for an operator, but for its values in bfloat16."""

    class InWiderTypes(config):  # type: ignore[misc]  # ExecuTorch has no types here
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "enable_bf16": False})

    return InWiderTypes


def declares(operator: str) -> bool:
    """Whether XNNPACK's partitioner has a config for it."""
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS

    return any(config.target_name == operator for config in ALL_PARTITIONER_CONFIGS)


XNNPACK = Backend(
    "xnnpack",
    partitioners,
    FLOAT32_TOLERANCE,
    delegating=True,
    summary="XNNPACK, in the dtype of the model",
    operator_bytes=SMALL_OPERATORS,
    device="CPUs of phones and computers, Arm and x86",
    delegates=("XnnpackBackend",),
    declares=declares,
)
