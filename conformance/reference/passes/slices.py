"""Chunks and splits as slices, which leave a dynamic length dynamic."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

_SPLITTING = (torch.ops.aten.chunk.default, torch.ops.aten.split.Tensor, torch.ops.aten.split_with_sizes.default)


def replace_splits_with_slices(program: ExportedProgram) -> None:
    """Rewrite each `chunk` and `split` of a tensor whose first dimension is dynamic as slices; the parts are the same.

    The edge verifier of ExecuTorch 1.5.1 takes the length of the first part for the length of the list
    (`exir/verification/arg_validator.py`, `len(kernel_ret)`). Where that length is symbolic, it is evaluated, which
    fixes the sequence length to the example's: the program refuses any other with error 0x10 or 0x12.

    Args:
        program: Its graph is rewritten in place. A split along the dynamic dimension itself stays.
    """
    for target in _SPLITTING:
        for node in program.graph.find_nodes(op="call_function", target=target):
            if isinstance(node.meta["val"][0].shape[0], torch.SymInt):
                _slice(node)
    program.graph_module.recompile()


def _slice(node: Any) -> None:
    """Replace a node that returns a list by one slice for each of its users."""
    parts: Sequence[torch.Tensor] = node.meta["val"]
    names = (argument.name for argument in node.target._schema.arguments)
    dim = {**dict(zip(names, node.args, strict=False)), **node.kwargs}.get("dim", 0) % parts[0].ndim
    ends = [0, *itertools.accumulate(part.shape[dim] for part in parts)]
    if not all(isinstance(end, int) for end in ends):
        return  # split along the dynamic dimension itself
    for user in list(node.users):
        assert user.target is operator.getitem, "in an exported graph, only getitem uses a list of tensors"
        start, end = ends[user.args[1] : user.args[1] + 2]
        with node.graph.inserting_before(user):
            part = node.graph.call_function(torch.ops.aten.slice.Tensor, (node.args[0], dim, start, end))
        part.meta = user.meta
        user.replace_all_uses_with(part)
        node.graph.erase_node(user)
    node.graph.erase_node(node)
