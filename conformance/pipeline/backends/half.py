"""XNNPACK in float16. The oracle is the float16 model, run by torch."""

from __future__ import annotations

import copy
from typing import Any

from conformance.pipeline.backends import xnnpack
from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend, Precision

#: 11 bits of mantissa. Over 3,840 calls (5 architectures, 24 texts) correct programs are at 40.7 dB or above with at
#: most 5 perturbed oracles; the oracle alone gives 37.9 dB, and 3.1 dB where mixtral's router ties. A zeroed, shifted
#: or swapped cache is at 13 dB or below. Fainter faults do not show: float32 is there for them. Two best logits that
#: are nearer than 5 % of the scale tie: 2.7 % was seen to flip at mixtral's router.
_ROUNDED = Precision(least_sqnr=30.0, perturbation_std=2**-10, max_perturbed_oracles=16, tie_margin=0.05)


def in_float16(model: Any) -> Any:
    """A copy in float16."""
    import torch

    return copy.deepcopy(model).to(torch.float16)


XNNPACK_FP16 = Backend(
    "xnnpack-fp16",
    xnnpack.partitioners,
    FLOAT32_TOLERANCE,
    delegating=True,
    summary="XNNPACK in float16",
    device="CPUs that compute in float16, as Arm's do since v8.2",
    weights="float16",
    declares=xnnpack.declares,
    prepare=in_float16,
    precision=_ROUNDED,
)
