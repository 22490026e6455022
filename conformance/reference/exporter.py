"""The exporter: from a model to an `ExportedProgram`."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from conformance.reference.constants import use_known_numbers
from conformance.reference.errors import ModelNotExportableError
from conformance.reference.masks import use_masked_fill
from conformance.reference.maxima import use_amax
from conformance.reference.recurrences import scanned_recurrences
from conformance.reference.rotary import settled_frequencies
from conformance.reference.slices import use_slices
from conformance.reference.tracing import ready_to_trace
from conformance.reference.transformers_api import can_scan
from conformance.reference.weights import use_weights_as_stored
from conformance.reference.wrapper import TorchExportableModuleWithStaticCache

#: Length of the default example where the sequence length is dynamic: export specialises on lengths 0 and 1.
_DYNAMIC_EXAMPLE_LENGTH = 2


def convert_and_export_with_cache(
    model: PreTrainedModel,
    example_input_ids: torch.Tensor | None = None,
    example_cache_position: torch.Tensor | None = None,
    *,
    dynamic_shapes: dict[str, Any] | None = None,
    strict: bool = False,
) -> ExportedProgram:
    """Wrap `model` with a static cache and export it; the model is left as it was.

    Args:
        model: The model to export. Its `generation_config` must ask for the "static" cache implementation and its
            `cache_config` give `batch_size` and `max_cache_len` (in tokens).
        example_input_ids: Example token ids, int64, shape [batch_size, seq]. Defaults to one token, or to two where
            `dynamic_shapes` is given.
        example_cache_position: Example cache position, int64, shape [seq]. Defaults to counting from 0.
        dynamic_shapes: As in `torch.export.export`, by input name: `{"input_ids": {1: seq}, "cache_position": {0:
            seq}}` with `seq = torch.export.Dim("seq", min=1, max=max_cache_len)`.
        strict: Trace with TorchDynamo instead of the Python interpreter. Both give programs that behave alike; the
            default is the one that takes half the time (0.4 to 1.2 s against 0.8 to 2.8 s on the core architectures)
            and that torch itself defaults to.

    Returns:
        A program `forward(input_ids, cache_position) -> logits [batch_size, seq, vocab]` whose cache is buffers that
        it mutates. Lower it under `torch.no_grad()`.

    Raises:
        ModelNotExportableError: The model or the examples do not fit; raised before any tracing.
    """
    wrapper = TorchExportableModuleWithStaticCache(model)
    examples = _examples(wrapper, example_input_ids, example_cache_position, dynamic=dynamic_shapes is not None)
    return exported(wrapper, examples, dynamic_shapes=dynamic_shapes, strict=strict)


def exported(
    wrapper: TorchExportableModuleWithStaticCache,
    examples: tuple[torch.Tensor, torch.Tensor],
    *,
    dynamic_shapes: dict[str, Any] | None,
    strict: bool = False,
) -> ExportedProgram:
    """The program of a wrapped model, with what lowering asks for put right; see `convert_and_export_with_cache`.

    Raises:
        ModelNotExportableError: It sums up the past, and this Transformers can do that one token at a time only.
    """
    model = wrapper.model
    if wrapper.sums_up and not can_scan(wrapper.cache) and (dynamic_shapes is not None or examples[0].shape[1] != 1):
        raise ModelNotExportableError(
            "layers that sum up the past take one token a call before Transformers 5.21, and would be wrong with more; "
            "give no dynamic_shapes, and example_input_ids of one token"
        )
    frequencies = settled_frequencies(model, wrapper.max_cache_len)
    with ready_to_trace(model), scanned_recurrences(model, wrapper.cache), frequencies:
        program = torch.export.export(wrapper, examples, dynamic_shapes=dynamic_shapes, strict=strict)
    use_known_numbers(program)
    use_amax(program)
    use_masked_fill(program)
    use_slices(program)
    use_weights_as_stored(program)
    return program


def _examples(
    wrapper: TorchExportableModuleWithStaticCache,
    input_ids: torch.Tensor | None,
    cache_position: torch.Tensor | None,
    *,
    dynamic: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    device = wrapper.model.device
    if input_ids is None:
        default = min(_DYNAMIC_EXAMPLE_LENGTH, wrapper.max_cache_len) if dynamic else 1
        length = default if cache_position is None else len(cache_position)
        input_ids = torch.zeros((wrapper.batch_size, length), dtype=torch.long, device=device)
    if cache_position is None:
        cache_position = torch.arange(input_ids.shape[-1], dtype=torch.long, device=device)
    if input_ids.dtype != torch.long or input_ids.ndim != 2 or input_ids.shape[0] != wrapper.batch_size:
        raise ModelNotExportableError(
            f"example_input_ids is {input_ids.dtype} {list(input_ids.shape)}; it must be torch.int64 "
            f"[{wrapper.batch_size}, seq]"
        )
    if cache_position.dtype != torch.long or cache_position.shape != input_ids.shape[1:]:
        raise ModelNotExportableError(
            f"example_cache_position is {cache_position.dtype} {list(cache_position.shape)}; it must be torch.int64 "
            f"[{input_ids.shape[1]}], one position for each example token"
        )
    return input_ids, cache_position
