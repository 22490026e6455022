"""Values put where a mask is true, in the form that can be done in place."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram


def use_masked_fill(program: ExportedProgram) -> None:
    """Rewrite each update of the places of a mask by one value as `masked_fill`; the results are the same.

    Gemma 3 so replaces the token ids of its images. Emitted in place, as caches have to be, the update is an
    `index_put_` whose kernel takes no mask: ExecuTorch 1.5.1 has "Special case in-place index_put only supports Long
    or Int index tensors" (`kernels/portable/cpu/op_index_put.cpp`), and each call fails with error 0x12.
    """
    filling = {
        torch.ops.aten.index_put.default: torch.ops.aten.masked_fill.Tensor,
        torch.ops.aten.index_put_.default: torch.ops.aten.masked_fill_.Tensor,
    }
    for target, masked_fill in filling.items():
        for node in program.graph.find_nodes(op="call_function", target=target):
            changed, indices, value, *accumulate = node.args
            if len(indices) != 1 or any(accumulate) or value.meta["val"].ndim:
                continue
            mask = indices[0].meta["val"]
            if mask.dtype is torch.bool and mask.ndim == changed.meta["val"].ndim:
                node.target, node.args = masked_fill, (changed, indices[0], value)
    program.graph_module.recompile()
