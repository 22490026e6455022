"""The exporter: from a model to an `ExportedProgram`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from conformance.reference.errors import ModelNotExportableError
from conformance.reference.passes import PASSES
from conformance.reference.passes.last_position import allow_the_last_position
from conformance.reference.settings import ATTENTIONS, CUSTOM, PORTABLE
from conformance.reference.tracing import ready_to_export
from conformance.reference.tracing.attention import grouped_attention
from conformance.reference.tracing.custom_attention import custom_attention
from conformance.reference.transformers_api import can_scan
from conformance.reference.trial import adopt_custom_attention, can_group_attention
from conformance.reference.wrapper import TorchExportableModuleWithStaticCache

#: Length of the default example if the sequence length is dynamic: export specialises on lengths 0 and 1.
_DYNAMIC_EXAMPLE_LENGTH = 2


def convert_and_export_with_cache(
    model: PreTrainedModel,
    example_input_ids: torch.Tensor | None = None,
    example_cache_position: torch.Tensor | None = None,
    *,
    dynamic_shapes: dict[str, Any] | None = None,
    strict: bool = False,
    logits_to_keep: int = 0,
    attention: str = PORTABLE,
) -> ExportedProgram:
    """Wrap `model` with a static cache and export it; the model is unchanged afterwards.

    Args:
        model: The model to export. Its `generation_config` must ask for the "static" cache implementation and its
            `cache_config` give `batch_size` and `max_cache_len` (in tokens).
        example_input_ids: Example token ids, int64, shape [batch_size, seq]. Defaults to one token, or to two if
            `dynamic_shapes` is given.
        example_cache_position: Example cache position, int64, shape [seq]. Defaults to counting from 0.
        dynamic_shapes: As in `torch.export.export`, by input name: `{"input_ids": {1: seq}, "cache_position": {0:
            seq}}` with `seq = torch.export.Dim("seq", min=1, max=max_cache_len)`.
        strict: Trace with TorchDynamo instead of the Python interpreter. The programs behave alike. The default is
            torch's own, and needs half the time (0.4 to 1.2 s, not 0.8 to 2.8 s, on the core architectures).
        attention: "portable", by operators that every runtime has, or "custom", by `llama::custom_sdpa` and
            `llama::update_cache`, ExecuTorch's own operators. Import `executorch.extension.llm.custom_ops.custom_ops`
            before, which registers them; a runtime has to have them linked in.
        logits_to_keep: Of how many of a call's last tokens the logits are returned; 0 for all. A runner reads those of
            the last token alone, and with a dynamic length the others are most of the memory that a program plans: 501
            MiB for 512 positions of 128,256 ids.

    Returns:
        A program `forward(input_ids, cache_position) -> logits`, of the model's dtype, shape [batch_size, seq, vocab],
        or [batch_size, logits_to_keep, vocab].
        Its cache is buffers that it mutates. Lower it under `torch.no_grad()`.

    Raises:
        ModelNotExportableError: A setting of the model is missing or wrong, an example has another dtype or shape, the
            model's forward takes no `logits_to_keep`, the cache is longer than the model has positions
            (`PositionsEndError`), custom attention does not compute what the model's own does
            (`AttentionDoesNotFitError`), or the model has recurrent state and the installed Transformers supports one
            token a call only. Raised before any tracing.
    """
    if attention not in ATTENTIONS:
        raise ModelNotExportableError(
            "invalid-attention", f"attention is {attention!r}; it must be {' or '.join(map(repr, ATTENTIONS))}"
        )
    wrapper = TorchExportableModuleWithStaticCache(model, logits_to_keep=logits_to_keep)
    examples = _example_inputs(wrapper, example_input_ids, example_cache_position, dynamic=dynamic_shapes is not None)
    return export_wrapper(wrapper, examples, dynamic_shapes=dynamic_shapes, strict=strict, attention=attention)


def export_wrapper(
    wrapper: TorchExportableModuleWithStaticCache,
    examples: tuple[torch.Tensor, torch.Tensor],
    *,
    dynamic_shapes: dict[str, Any] | None,
    strict: bool = False,
    attention: str = PORTABLE,
) -> ExportedProgram:
    """Export a wrapped model and run every pass of `PASSES` on the program; see `convert_and_export_with_cache`.

    Args:
        wrapper: The wrapped model.
        examples: The positional inputs of `wrapper.forward`; the first one has the shape [batch_size, seq, ...].
        dynamic_shapes: As in `torch.export.export`, by input name.
        strict: Trace with TorchDynamo.
        attention: One of `ATTENTIONS`; with "custom", the wrapper's cache gets another layout.

    Raises:
        ModelNotExportableError: The model has recurrent state, and the installed Transformers supports one token a call
            only, or custom attention does not fit.
    """
    several_tokens = dynamic_shapes is not None or examples[0].shape[1] != 1
    if several_tokens and wrapper.has_recurrent_state and not can_scan(wrapper.cache):
        raise ModelNotExportableError(
            "one-token-only",
            "layers that sum up the past take one token a call before Transformers 5.21, and would be wrong with more; "
            "give no dynamic_shapes, and example_input_ids of one token",
        )
    replaced: AbstractContextManager[None] = nullcontext()
    if attention == CUSTOM:
        adopt_custom_attention(wrapper, examples[0], several=several_tokens)
        replaced = custom_attention(wrapper.custom_layers)
    elif can_group_attention(wrapper, examples[0], several=several_tokens):
        replaced = grouped_attention()
    with ready_to_export(wrapper.model, wrapper.cache, wrapper.max_cache_len), replaced:
        program = torch.export.export(wrapper, examples, dynamic_shapes=dynamic_shapes, strict=strict)
    if attention == CUSTOM:
        allow_the_last_position(program)
    for rewrite in PASSES:
        rewrite(program)
    return program


def _example_inputs(
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
            "invalid-example",
            f"example_input_ids is {input_ids.dtype} {list(input_ids.shape)}; it must be torch.int64 "
            f"[{wrapper.batch_size}, seq]",
        )
    if cache_position.dtype != torch.long or cache_position.shape != input_ids.shape[1:]:
        raise ModelNotExportableError(
            "invalid-example",
            f"example_cache_position is {cache_position.dtype} {list(cache_position.shape)}; it must be torch.int64 "
            f"[{input_ids.shape[1]}], one position for each example token",
        )
    return input_ids, cache_position
