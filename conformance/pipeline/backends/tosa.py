"""Arm's TOSA, in its float profile, run by Arm's reference model."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend, Interpreter

#: The specification of ExecuTorch's own float recipe. Adding the integer profile takes nothing more of a float32
#: program; extensions for int64 and dynamic shapes exist in 1.1 and do not lower yet.
SPECIFICATION = "TOSA-1.0+FP"
#: What has the serializer and the reference model. It pins NumPy and others to old versions; these two do without them.
REQUIRES = ("tosa-tools>=2026.5", "ml_dtypes")
PIP_OPTIONS = ("--no-deps",)


def partitioners() -> list[Any]:
    """ExecuTorch's TOSA partitioner for the float profile."""
    from executorch.backends.arm.tosa.compile_spec import TosaCompileSpec
    from executorch.backends.arm.tosa.partitioner import TOSAPartitioner

    return [TOSAPartitioner(TosaCompileSpec(SPECIFICATION))]


def declares(operator: str) -> bool:
    """Whether it is in the profile's list, or one that a registered check looks at."""
    return operator in listed(SPECIFICATION)


@cache
def listed(specification: str) -> frozenset[str]:
    """The operators in the lists of the specification's profiles, and those that its checks look at."""
    from executorch.backends.arm.operator_support.tosa_profile_supported_op_lists import (
        TOSA_PRO_FP_SupportList,
        TOSA_PRO_INT_SupportList,
    )
    from executorch.backends.arm.operator_support.tosa_supported_operators import get_registered_tosa_support_checks
    from executorch.backends.arm.tosa import TosaSpecification

    chosen = TosaSpecification.create_from_string(specification)
    targets = [target for check in get_registered_tosa_support_checks(chosen) for target in check.targets]
    targets += TOSA_PRO_FP_SupportList if chosen.support_float() else ()
    targets += TOSA_PRO_INT_SupportList if chosen.support_integer() else ()
    names = (str(getattr(target, "__name__", target)) for target in targets)
    return frozenset(".".join(name.split(".")[-2:]) for name in names)


def running() -> AbstractContextManager[object]:
    """ExecuTorch's own dispatch to the reference model, which Arm's tests of ExecuTorch use.

    It refuses delegates of other backends, graphs that the reference model does not find valid, and, at its end, calls
    without any delegate.
    """
    from executorch.backends.arm.test.runner_utils import TosaReferenceModelDispatch

    dispatch: AbstractContextManager[object] = TosaReferenceModelDispatch()
    return dispatch


# There is no int8 variant. With ExecuTorch 1.5.1, Arm's quantiser leaves the caches in float32, and a MATMUL of an int8
# query with them does not lower ("Input tensors must have the same dtype"); on linear layers alone, its pass
# ConvertInt64ConstOpsToInt32Pass makes the cache position int32, which torch's index_copy refuses in calibration.
TOSA = Backend(
    "tosa",
    partitioners,
    FLOAT32_TOLERANCE,
    delegating=True,
    owns_weights=True,
    summary="Arm's TOSA, float profile",
    device="what compiles TOSA, as tools for Arm's NPUs and GPUs do",
    interpreter=Interpreter("Arm's TOSA reference model", running),
    requires=REQUIRES,
    pip_options=PIP_OPTIONS,
    declares=declares,
)
