"""Tensors cut into a list, in the form that leaves a dynamic length dynamic."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

_CUTTING = (torch.ops.aten.chunk.default, torch.ops.aten.split.Tensor, torch.ops.aten.split_with_sizes.default)


def use_slices(program: ExportedProgram) -> None:
    """Rewrite each `chunk` and `split` of a tensor whose first dimension is dynamic as slices; the parts are the same.

    The edge verifier of ExecuTorch 1.5.1 takes the length of the first part for the length of the list
    (`exir/verification/arg_validator.py`, `len(kernel_ret)`). Where that length is symbolic, it is evaluated, which
    fixes the sequence length to the example's: the program refuses any other with error 0x10 or 0x12.
    """
    for target in _CUTTING:
        for node in program.graph.find_nodes(op="call_function", target=target):
            if isinstance(node.meta["val"][0].shape[0], torch.SymInt):
                _slice(node)
    program.graph_module.recompile()


def _slice(node: Any) -> None:
    parts: Sequence[torch.Tensor] = node.meta["val"]
    named = dict(zip((argument.name for argument in node.target._schema.arguments), node.args, strict=False))
    dim = {**named, **node.kwargs}.get("dim", 0) % parts[0].ndim
    ends = [0, *itertools.accumulate(part.shape[dim] for part in parts)]
    if not all(isinstance(end, int) for end in ends):
        return  # cut along the dynamic dimension itself
    for user in list(node.users):
        assert user.target is operator.getitem, "a list of tensors is taken apart before it is used"
        start, end = ends[user.args[1] : user.args[1] + 2]
        with node.graph.inserting_before(user):
            cut = node.graph.call_function(torch.ops.aten.slice.Tensor, (node.args[0], dim, start, end))
        cut.meta = user.meta
        user.replace_all_uses_with(cut)
        node.graph.erase_node(user)
    node.graph.erase_node(node)
