"""XNNPACK, with attention and cache updates by ExecuTorch's own operators. A runtime has to have them linked in."""

from conformance.core.attention import CUSTOM
from conformance.pipeline.backends import xnnpack
from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend

XNNPACK_CUSTOM_ATTENTION = Backend(
    "xnnpack-custom-attention",
    xnnpack.partitioners,
    FLOAT32_TOLERANCE,
    delegating=True,
    summary="XNNPACK, attention by `llama::custom_sdpa`",
    device="the same, in an app that links ExecuTorch's LLM operators",
    attention=CUSTOM,
    declares=xnnpack.declares,
)
