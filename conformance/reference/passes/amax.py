"""Maxima as `amax`, which XNNPACK does not delegate."""

from __future__ import annotations

import operator

import torch
from torch.export import ExportedProgram


def replace_max_with_amax(program: ExportedProgram) -> None:
    """Rewrite each `max` along a dimension as `amax`, unless its indices are used; the values are the same.

    Attention with sinks computes such a maximum before its softmax. XNNPACK's partitioner up to ExecuTorch 1.5.1
    delegates `max.dim` over any dimension of four, but cannot compute it: its serialiser (`backends/xnnpack/operators/
    op_max_dim.py`) refuses dimension -1, and makes a pooling of dimension 3 whose results are wrong (off by 0.6 of the
    logits' scale on three architectures). It does not delegate `amax`.

    Args:
        program: Its graph is rewritten in place.
    """
    graph = program.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.max.dim):
        results = {user.args[1]: user for user in node.users if user.target is operator.getitem}
        values, indices = results.get(0), results.get(1)
        if values is None or (indices is not None and indices.users):
            continue
        with graph.inserting_before(node):
            inputs, dim, *keepdim = node.args
            amax = graph.call_function(torch.ops.aten.amax.default, (inputs, [dim], *keepdim))
        amax.meta = values.meta
        values.replace_all_uses_with(amax)
        for unused in (*results.values(), node):
            graph.erase_node(unused)
    program.graph_module.recompile()
