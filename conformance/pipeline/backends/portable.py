"""ExecuTorch's own portable kernels, and no delegate."""

from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend
from conformance.pipeline.backends.recipes import no_partitioners

PORTABLE = Backend(
    "portable",
    no_partitioners,
    FLOAT32_TOLERANCE,
    delegating=False,
    summary="ExecuTorch's own kernels",
    device="any CPU, slowly",
    delegates=(),
)
