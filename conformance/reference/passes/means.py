"""Means of rows as products, which delegates take where they do not take means."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram

from conformance.reference.passes.constants import constant
from conformance.reference.passes.views import inferred

_aten = torch.ops.aten


def replace_means_with_products(program: ExportedProgram) -> None:
    """Rewrite each float32 mean along the last dimension as a product with a column of 1/n; the values are the same.

    Normalisations compute one for each token. XNNPACK's partitioner (ExecuTorch 1.5.1) takes `mean` over the last two
    of four dimensions alone, so that each normalisation would split a delegate.

    Args:
        program: Its graph is rewritten in place.
    """
    graph = program.graph
    for node in graph.find_nodes(op="call_function", target=_aten.mean.dim):
        inputs, dims, *keepdim = node.args
        source, result = inputs.meta["val"], node.meta["val"]
        if list(dims) not in ([-1], [source.ndim - 1]) or keepdim != [True] or node.kwargs.get("dtype"):
            continue
        size = source.shape[-1]
        if source.dtype is not torch.float32 or not isinstance(size, int):
            continue
        rows = inferred(result.shape)
        if rows.count(-1) > 1:
            continue
        column = constant(program, f"mean_of_{size}", torch.full((size, 1), 1 / size))
        with graph.inserting_before(node):
            flat = graph.call_function(_aten.reshape.default, (inputs, [-1, size]))  # it may be transposed
            product = graph.call_function(_aten.mm.default, (flat, column))
            shaped = graph.call_function(_aten.view.default, (product, rows))
        flat.meta = {**node.meta, "val": source.reshape(-1, size)}
        product.meta = {**node.meta, "val": flat.meta["val"].new_empty((flat.meta["val"].shape[0], 1))}
        shaped.meta = node.meta
        node.replace_all_uses_with(shaped)
        graph.erase_node(node)
    program.graph_module.recompile()
