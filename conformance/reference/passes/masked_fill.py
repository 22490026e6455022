"""Masked updates as `masked_fill`, which ExecuTorch can compute in place."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram


def replace_index_put_with_masked_fill(program: ExportedProgram) -> None:
    """Rewrite each `index_put` of a single value at a boolean mask as `masked_fill`; the results are the same.

    Gemma 3 replaces the token ids of its images this way. Emitted in place, as caches have to be, the update is an
    `index_put_` whose kernel does not accept a mask: ExecuTorch 1.5.1 has "Special case in-place index_put only
    supports Long or Int index tensors" (`kernels/portable/cpu/op_index_put.cpp`), and each call fails with error 0x12.

    Args:
        program: Its graph is rewritten in place.
    """
    replacements = {
        torch.ops.aten.index_put.default: torch.ops.aten.masked_fill.Tensor,
        torch.ops.aten.index_put_.default: torch.ops.aten.masked_fill_.Tensor,
    }
    for index_put, masked_fill in replacements.items():
        for node in program.graph.find_nodes(op="call_function", target=index_put):
            updated, indices, value, *accumulate = node.args
            if len(indices) != 1 or any(accumulate) or value.meta["val"].ndim:
                continue
            mask = indices[0].meta["val"]
            if mask.dtype is torch.bool and mask.ndim == updated.meta["val"].ndim:
                node.target, node.args = masked_fill, (updated, indices[0], value)
    program.graph_module.recompile()
