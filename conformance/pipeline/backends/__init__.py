"""Backends: how a program is lowered, as data, a small module each. Imports no torch."""

from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend
from conformance.pipeline.backends.portable import PORTABLE
from conformance.pipeline.backends.xnnpack import XNNPACK

BACKENDS = {backend.name: backend for backend in (PORTABLE, XNNPACK)}

__all__ = ["BACKENDS", "FLOAT32_TOLERANCE", "PORTABLE", "XNNPACK", "Backend"]
