"""optimum-executorch's exporter of causal language models, up to where its recipes would lower the program.

It takes the model and how long its cache is, and makes its own example inputs and dynamic shapes. Without custom
attention and a custom cache, which are ExecuTorch's own operators, any backend can lower its programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from optimum.exporters.executorch.integrations import CausalLMExportableModule
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from conformance.exporters.resolve import Exporter


def export(
    model: PreTrainedModel,
    example_input_ids: torch.Tensor | None = None,
    example_cache_position: torch.Tensor | None = None,
    *,
    dynamic_shapes: dict[str, Any] | None = None,
) -> ExportedProgram:
    """What `CausalLMExportableModule(model, max_seq_len).export()` makes of the model, with nothing done to it.

    Args:
        model: The model. `generation_config.cache_config` says how long a cache is.
        example_input_ids: Ignored: the module makes its own.
        example_cache_position: Ignored likewise.
        dynamic_shapes: None for a program with a fixed length, anything else for a dynamic one, within the module's own
            bounds.
    """
    program: ExportedProgram = _module(model, dynamic=dynamic_shapes is not None).export()["model"]
    return program


def runner_methods(model: PreTrainedModel, *, dynamic: bool) -> Mapping[str, Any]:
    """The constant methods that the module records for a program of this kind."""
    methods: Mapping[str, Any] = _module(model, dynamic=dynamic).metadata
    return methods


def _module(model: PreTrainedModel, *, dynamic: bool) -> Any:
    length = model.generation_config.cache_config["max_cache_len"]
    return CausalLMExportableModule(model, length, disable_dynamic_shapes=not dynamic)


SUBJECT = Exporter(
    "optimum",
    export,
    inapplicable={"EXP-9": "reads no generation config: its caller says how long the cache is, and makes the config"},
    metadata=runner_methods,
)
