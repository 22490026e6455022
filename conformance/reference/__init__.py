"""The reference wrapper and exporter. Imports torch and transformers only, so it can be lifted out as it is."""

from conformance.reference.errors import ModelNotExportableError
from conformance.reference.exporter import convert_and_export_with_cache
from conformance.reference.metadata import runner_methods
from conformance.reference.multimodal import convert_and_export_for_multimodal
from conformance.reference.wrapper import TorchExportableModuleWithStaticCache

__all__ = [
    "ModelNotExportableError",
    "TorchExportableModuleWithStaticCache",
    "convert_and_export_for_multimodal",
    "convert_and_export_with_cache",
    "runner_methods",
]
