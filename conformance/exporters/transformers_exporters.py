"""Transformers' `ExecutorchExporter` with a static cache, up to where it would lower the program: the suite does that.

Its programs take the cache as an input and return it, so their caller passes it on from call to call
(`conformance.decoding.explicit_cache`). It needs a decode step's inputs: token ids, and a cache that such a step would
find.
"""

from __future__ import annotations

import inspect
from typing import Any
from unittest import mock

import torch
from torch.export import ExportedProgram
from transformers import PreTrainedModel, StaticCache
from transformers.exporters import exporter_executorch
from transformers.exporters.configs import ExecutorchConfig
from transformers.exporters.exporter_dynamo import get_auto_dynamic_shapes

from conformance.decoding.explicit_cache import ExplicitCacheDriver
from conformance.exporters.resolve import Exporter

#: The exporter's backend whose preparations are for the CPU.
_BACKEND = "xnnpack"


def export(
    model: PreTrainedModel,
    example_input_ids: torch.Tensor | None = None,
    example_cache_position: torch.Tensor | None = None,
    *,
    dynamic_shapes: dict[str, Any] | None = None,
    strict: bool = False,
) -> ExportedProgram:
    """The program that `ExecutorchExporter().export_program` hands to ExecuTorch, with nothing done to it.

    Args:
        model: The model, which the exporter may change. `generation_config.cache_config` says how long a cache is.
        example_input_ids: Example token ids, int64, shape [batch_size, seq]. Without them the exporter is given none.
        example_cache_position: Ignored: positions are counted from the cache's length.
        dynamic_shapes: By input name; those of the cache position are ignored.
        strict: As in the exporter's config, whose default it is.
    """
    cache = _as_a_decode_step_finds_it(model, 1 if example_input_ids is None else len(example_input_ids))
    inputs = {} if example_input_ids is None else {"input_ids": example_input_ids}
    name = _cache_name(model)
    shapes = None
    if dynamic_shapes is not None:
        shapes = {"input_ids": dynamic_shapes["input_ids"], name: [None for _ in get_auto_dynamic_shapes(cache)]}
    config = ExecutorchConfig(backend=_BACKEND, strict=strict, dynamic_shapes=shapes)
    exporter = exporter_executorch.ExecutorchExporter()
    with mock.patch.object(exporter_executorch, "to_edge_transform_and_lower") as lower:
        exporter.export_program(model, {**inputs, name: cache, "use_cache": True}, config=config)
    program: ExportedProgram = lower.call_args.args[0]
    return program


def _as_a_decode_step_finds_it(model: PreTrainedModel, rows: int) -> StaticCache:
    """A cache with one token in it.

    Some layers choose their code by whether there is a state to go on from, and what they are traced with is what the
    program does for good. A state of zeros is the same as none, so this one is right from the first token on.
    """
    sizes = model.generation_config.cache_config
    cache = StaticCache(config=model.config, max_cache_len=sizes["max_cache_len"])
    with torch.no_grad():
        model(input_ids=torch.zeros((rows, 1), dtype=torch.long), use_cache=True, **{_cache_name(model): cache})
    return cache


def _cache_name(model: PreTrainedModel) -> str:
    """The model's name for its cache."""
    return "cache_params" if "cache_params" in inspect.signature(model.forward).parameters else "past_key_values"


SUBJECT = Exporter(
    "transformers-exporters",
    export,
    driver=ExplicitCacheDriver(),
    inapplicable={"EXP-9": "reads no generation config: its caller makes the cache, of whatever size"},
)
