"""XNNPACK by a driver: the smallest backend with a device, which shows that the protocol gives the same verdicts.

It is named as `conformance.pipeline.backends.other_process:XNNPACK`, and is not among `BACKENDS`: it says nothing of
programs that `xnnpack` does not say.
"""

from __future__ import annotations

import dataclasses
import sys

from conformance.core.device import Device
from conformance.pipeline.backends import xnnpack

XNNPACK = dataclasses.replace(
    xnnpack.XNNPACK,
    summary="XNNPACK, run by a driver in another process",
    runs_on=Device(
        "ExecuTorch's Python runtime in another process",
        (sys.executable, "-m", "conformance.decoding.device_driver"),
    ),
)
