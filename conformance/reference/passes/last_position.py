"""Assertions on positions that hold for several tokens a call only."""

from __future__ import annotations

import operator

import torch
from torch.export import ExportedProgram
from torch.fx import Node


def allow_the_last_position(program: ExportedProgram) -> None:
    """Take out assertions that bound an integer more closely than another assertion on it does.

    `torch.export` (2.13) takes a dynamic length to be 2 at least, and asserts what follows for the first position of a
    call: that it is before the last one. One token there is a valid call.

    Args:
        program: Its graph is rewritten in place.
    """
    graph = program.graph
    bounds = [node for node in graph.nodes if node.op == "call_function" and node.target in (operator.le, operator.lt)]
    for node in bounds:
        others = [_most(other) for other in bounds if other is not node and other.args[0] is node.args[0]]
        most = _most(node)
        if most is None or not any(other is not None and other > most for other in others):
            continue
        for assertion in list(node.users):
            if assertion.target is torch.ops.aten._assert_scalar.default:
                graph.erase_node(assertion)
        if not node.users:
            graph.erase_node(node)
    program.graph_module.recompile()


def _most(bound: Node) -> int | None:
    limit = bound.args[1]
    return limit - (bound.target is operator.lt) if isinstance(limit, int) else None
