"""The reference wrapper and exporter. It imports only torch and transformers, so it can be used without the suite.

Three rooms: the API here, `tracing` for what changes while a model is traced, `passes` for what rewrites the program.
"""

from conformance.reference.errors import AttentionDoesNotFitError, ModelNotExportableError, PositionsEndError
from conformance.reference.exporter import convert_and_export_with_cache
from conformance.reference.metadata import runner_methods
from conformance.reference.multimodal import convert_and_export_for_multimodal
from conformance.reference.wrapper import TorchExportableModuleWithStaticCache

__all__ = [
    "AttentionDoesNotFitError",
    "ModelNotExportableError",
    "PositionsEndError",
    "TorchExportableModuleWithStaticCache",
    "convert_and_export_for_multimodal",
    "convert_and_export_with_cache",
    "runner_methods",
]
