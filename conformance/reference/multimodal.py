"""The exporter for ExecuTorch's multimodal runner: one program that embeds token ids, one that decodes embeddings.

Between the two, an app puts the embeddings of images or sounds among those of the text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from conformance.reference.errors import ModelNotExportableError
from conformance.reference.exporter import export_wrapper
from conformance.reference.transformers_api import parameters
from conformance.reference.wrapper import TorchExportableModuleWithStaticCache

#: Length of the example: export specialises on lengths 0 and 1.
_EXAMPLE_LENGTH = 2


class TextDecoder(TorchExportableModuleWithStaticCache):
    """The wrapper, called with embeddings instead of token ids."""

    def forward(self, inputs_embeds: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """Decode `inputs_embeds` at `cache_position`, as `TorchExportableModuleWithStaticCache.forward` does token ids.

        Args:
            inputs_embeds: Of the model's dtype, shape [batch_size, seq, hidden].
            cache_position: Int64, shape [seq], consecutive. With others the result is undefined: no value of an
                embedding makes a runtime refuse it, as an invalid token id does.

        Returns:
            The logits, of the model's dtype, shape [batch_size, seq, vocab].
        """
        return self._decode(inputs_embeds, cache_position, "inputs_embeds")


class TokenEmbedding(nn.Module):
    """The model's own input embedding, with its scaling if it has one."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.embedding = model.get_input_embeddings()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings, of the model's dtype, shape [batch_size, seq, hidden], of int64 token ids [batch_size, seq]."""
        embeddings: torch.Tensor = self.embedding(input_ids)
        return embeddings


def convert_and_export_for_multimodal(model: PreTrainedModel, seq: Any) -> dict[str, ExportedProgram]:
    """The programs that `MultimodalRunner` calls, by the names of its methods; the model is unchanged afterwards.

    Lower both at once, with the constant methods of `runner_methods(model, dynamic=True)`.

    Args:
        model: As for `convert_and_export_with_cache`.
        seq: `torch.export.Dim("seq", min=1, max=max_cache_len)`. A pair of programs for one token a call would not run:
            the runner of ExecuTorch 1.5.1 passes a whole text to them, whatever `enable_dynamic_shape` says.

    Returns:
        `token_embedding(input_ids) -> inputs_embeds` and `text_decoder(inputs_embeds, cache_position) -> logits`, with
        `input_ids` int64 [batch_size, seq], `cache_position` int64 [seq], and of the model's dtype `inputs_embeds`
        [batch_size, seq, hidden] and `logits` [batch_size, seq, vocab].

    Raises:
        ModelNotExportableError: The model's forward does not accept `inputs_embeds`, or one of the errors of
            `convert_and_export_with_cache`.
    """
    if "inputs_embeds" not in parameters(model):
        raise ModelNotExportableError(
            "no-inputs-embeds", f"{type(model).__name__}.forward has no argument inputs_embeds"
        )
    decoder, embedding = TextDecoder(model), TokenEmbedding(model)
    length = min(_EXAMPLE_LENGTH, decoder.max_cache_len)
    ids = torch.zeros((decoder.batch_size, length), dtype=torch.long, device=model.device)
    with torch.no_grad():
        embeddings = embedding(ids)
        embedded = torch.export.export(embedding, (ids,), dynamic_shapes={"input_ids": {1: seq}})
    positions = torch.arange(length, device=model.device)
    shapes = {"inputs_embeds": {1: seq}, "cache_position": {0: seq}}
    decoded = export_wrapper(decoder, (embeddings, positions), dynamic_shapes=shapes)
    return {"token_embedding": embedded, "text_decoder": decoded}
