"""Rotations of halves as products, where slices would not be delegated."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from conformance.reference.passes.constants import constant
from conformance.reference.passes.views import inferred

_aten = torch.ops.aten


def replace_rotations_with_products(program: ExportedProgram) -> None:
    """Rewrite each (-second half, first half) of a last dimension as a product with a matrix of 0, 1 and -1.

    The values are the same to the last bit. Rotary embeddings compute one for queries and one for keys in each layer,
    by two slices, and XNNPACK's partitioner (ExecuTorch 1.5.1) takes no slice of a tensor with a dynamic length. Only
    such are rewritten: the product costs a hundredth of a layer's.

    Args:
        program: Its graph is rewritten in place.
    """
    graph = program.graph
    for node in graph.find_nodes(op="call_function", target=_aten.cat.default):
        source = _rotated(node)
        if source is None or all(isinstance(size, int) for size in source.meta["val"].shape):
            continue
        value, result = source.meta["val"], node.meta["val"]
        size = value.shape[-1]
        rows = inferred(result.shape)
        if value.dtype is not torch.float32 or rows.count(-1) != 1:
            continue
        matrix = constant(program, f"rotation_of_{size}", _rotation(size))
        with graph.inserting_before(node):
            packed = graph.call_function(_aten.clone.default, (source,), {"memory_format": torch.contiguous_format})
            flat = graph.call_function(_aten.view.default, (packed, [-1, size]))
            product = graph.call_function(_aten.mm.default, (flat, matrix))
            shaped = graph.call_function(_aten.view.default, (product, rows))
        packed.meta = {**node.meta, "val": value.contiguous()}
        flat.meta = {**node.meta, "val": packed.meta["val"].view(-1, size)}
        product.meta = {**node.meta, "val": flat.meta["val"].clone()}
        shaped.meta = {**node.meta, "val": product.meta["val"].view(result.shape)}
        node.replace_all_uses_with(shaped)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _rotated(node: Any) -> Node | None:
    """The tensor whose halves `node` puts together in the other order, the second one negated; None for any other."""
    parts, *dim = node.args
    if len(parts) != 2 or dim not in ([-1], [node.meta["val"].ndim - 1]) or parts[0].target is not _aten.neg.default:
        return None
    second, first = parts[0].args[0], parts[1]
    if first.target is not _aten.slice.Tensor or second.target is not _aten.slice.Tensor:
        return None
    source: Node = first.args[0]
    size = source.meta["val"].shape[-1]
    if not isinstance(size, int) or size % 2 or second.args[0] is not source:
        return None
    last = source.meta["val"].ndim - 1
    halves = [
        (part.args[1] % (last + 1), part.args[2] or 0, min(part.args[3], size), *part.args[4:])
        for part in (first, second)
    ]
    return source if halves == [(last, 0, size // 2), (last, size // 2, size)] else None


def _rotation(size: int) -> torch.Tensor:
    """The matrix R, [size, size], for which `x @ R` is (-second half of x, first half of x)."""
    half = size // 2
    matrix = torch.zeros(size, size)
    matrix[half:, :half] = -torch.eye(half)
    matrix[:half, half:] = torch.eye(half)
    return matrix
