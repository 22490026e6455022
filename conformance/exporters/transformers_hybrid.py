"""Transformers' recipe for decoder-only models: a hybrid cache where the config asks for one, else a static cache."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from transformers import PreTrainedModel
from transformers.integrations.executorch import TorchExportableModuleForDecoderOnlyLM


def convert_and_export_with_cache(
    model: PreTrainedModel,
    example_input_ids: torch.Tensor | None = None,
    example_cache_position: torch.Tensor | None = None,
    *,
    dynamic_shapes: dict[str, Any] | None = None,
    strict: bool | None = None,
) -> ExportedProgram:
    """What `TorchExportableModuleForDecoderOnlyLM(model).export` makes of these arguments, all as they are.

    The sizes of the cache are those of the model's `generation_config.cache_config`. The recipe has no default for
    the token ids (EXP-6) and traces strictly by default.

    Raises:
        ValueError, AssertionError: The recipe refuses the model, or was given no token ids.
    """
    with torch.no_grad():  # the recipe leaves it to its caller; a program that tracks gradients cannot be lowered
        return TorchExportableModuleForDecoderOnlyLM(model).export(
            input_ids=example_input_ids,
            cache_position=example_cache_position,
            dynamic_shapes=dynamic_shapes,
            strict=strict,
        )
