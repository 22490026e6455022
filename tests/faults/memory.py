"""Deliberately wasteful exporters: their programs decode right, and take more bytes than the model does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn import functional
from transformers import PreTrainedModel

from conformance.reference import TorchExportableModuleWithStaticCache, convert_and_export_with_cache
from conformance.reference.cache import set_position
from conformance.reference.tracing import ready_to_trace
from tests.faults.programs import Tensor


class _WideCache(nn.Module):
    """Keeps some tensors of the cache in another dtype, and converts them at each call."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, suffix: str) -> None:
        super().__init__()
        self.inner = TorchExportableModuleWithStaticCache(model)
        for slot in self.inner._slots:
            kept = self.inner.get_buffer(slot.buffer_name)
            wide = kept.to(dtype) if slot.buffer_name.endswith(suffix) else kept.clone()
            self.register_buffer(f"wide_{slot.buffer_name}", wide, persistent=False)

    def forward(self, input_ids: Tensor, cache_position: Tensor) -> Tensor:
        inner = self.inner
        slots = [(slot, self.get_buffer(f"wide_{slot.buffer_name}")) for slot in inner._slots]
        for slot, wide in slots:
            slot.write(inner.cache, wide.to(inner.model.dtype, copy=True))
        set_position(inner.cache, cache_position[0])
        arguments = inner._convention.arguments(input_ids, cache_position, inner.cache, inner.max_cache_len)
        logits: Tensor = inner.model(**arguments).logits
        for slot, wide in slots:
            wide.copy_(slot.read(inner.cache))
        return logits


def _wide(dtype: torch.dtype, suffix: str) -> Callable[..., ExportedProgram]:
    def export(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
        with ready_to_trace(model):
            module = _WideCache(model, dtype, suffix)
            return torch.export.export(module, examples, dynamic_shapes=dynamic_shapes, strict=False)

    export.__name__ = f"{str(dtype).removeprefix('torch.')}_cache{suffix}"
    return export


#: For a model in float32.
float64_values = _wide(torch.float64, "_values")
#: For a model in half precision.
float32_cache = _wide(torch.float32, "")


class _TransposedHead(nn.Module):
    """Multiplies by a transposed copy of the weight, laid out anew."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("transposed", weight.detach().t().contiguous())

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden @ self.get_buffer("transposed")


class _PaddedHead(nn.Module):
    """Multiplies by a copy of the weight with more rows, and drops what they give."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.rows = weight.shape[0]
        self.register_buffer("padded", functional.pad(weight.detach(), (0, 0, 0, 8)))

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.get_buffer("padded"))[..., : self.rows]


def _untied(head: Callable[[Tensor], nn.Module]) -> Callable[..., ExportedProgram]:
    def export(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
        model = copy.deepcopy(model)
        embedding: Any = model.get_input_embeddings()
        model.set_output_embeddings(head(embedding.weight))
        return convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)

    export.__name__ = head.__name__.strip("_")
    return export


#: For a model whose output projection is tied to its embedding.
transposed_head = _untied(_TransposedHead)
padded_head = _untied(_PaddedHead)
