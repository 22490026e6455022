"""Backends: how a program is lowered, as data, a small module each. Imports no torch."""

from conformance.core.errors import InputError
from conformance.core.suggest import unknown_backend
from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend
from conformance.pipeline.backends.coreai import COREAI
from conformance.pipeline.backends.coreml import COREML
from conformance.pipeline.backends.custom_attention import XNNPACK_CUSTOM_ATTENTION
from conformance.pipeline.backends.ethos_u import ETHOS_U55
from conformance.pipeline.backends.half import XNNPACK_FP16
from conformance.pipeline.backends.named import named
from conformance.pipeline.backends.native import NATIVE
from conformance.pipeline.backends.openvino import OPENVINO
from conformance.pipeline.backends.portable import PORTABLE
from conformance.pipeline.backends.qnn import QNN
from conformance.pipeline.backends.quantised import (
    XNNPACK_8DA4W,
    XNNPACK_8DA4W_EMBEDDINGS,
    XNNPACK_8DA4W_EMBEDDINGS8,
    XNNPACK_8DA8W,
    XNNPACK_PT2E,
)
from conformance.pipeline.backends.tosa import TOSA
from conformance.pipeline.backends.vgf import VGF
from conformance.pipeline.backends.vulkan import VULKAN
from conformance.pipeline.backends.webgpu import WEBGPU
from conformance.pipeline.backends.xnnpack import XNNPACK

_QUANTISING = (
    XNNPACK_8DA4W,
    XNNPACK_8DA4W_EMBEDDINGS,
    XNNPACK_8DA4W_EMBEDDINGS8,
    XNNPACK_8DA8W,
    XNNPACK_PT2E,
)
_RUN = (PORTABLE, XNNPACK, XNNPACK_CUSTOM_ATTENTION, XNNPACK_FP16, *_QUANTISING, OPENVINO, TOSA)
_LOWERED_ONLY = (VULKAN, WEBGPU, COREML, COREAI, VGF, ETHOS_U55, QNN, NATIVE)
BACKENDS = {backend.name: backend for backend in (*_RUN, *_LOWERED_ONLY)}


def backend_called(name: str) -> Backend:
    """The backend of that name: one of `BACKENDS`, or what `package.module:NAME` or `recipe:NAME` names.

    Raises:
        ValueError: Nothing is called so.
    """
    if name in BACKENDS:
        return BACKENDS[name]
    if ":" not in name:
        raise InputError("unknown-name", unknown_backend(name, BACKENDS))
    return named(name)


__all__ = ["BACKENDS", "FLOAT32_TOLERANCE", "PORTABLE", "XNNPACK", "Backend", "backend_called"]
