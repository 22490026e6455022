"""Numbers that a model works out anew in each call, worked out once."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg


def use_known_numbers(program: ExportedProgram) -> None:
    """Rewrite `erfinv` of a constant as the number that it gives.

    `aten.erfinv` is no Core ATen operator, so the edge dialect of ExecuTorch 1.5.1 refuses it. Gemma 3n takes it, in
    `torch.distributions.Normal.icdf`, of the sparsity in its config.
    """
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.erfinv.default):
        known = _value(node, program)
        if known is None or known.ndim:
            continue
        with program.graph.inserting_before(node):
            number = program.graph.call_function(
                torch.ops.aten.full.default, ([], known.item()), {"dtype": known.dtype, "device": known.device}
            )
        number.meta = node.meta
        node.replace_all_uses_with(number)
        program.graph.erase_node(node)
    program.graph_module.recompile()


def _value(node: Node, program: ExportedProgram) -> torch.Tensor | None:
    """What `node` gives in every call; None where that hangs on inputs, weights or buffers."""
    if node.op == "placeholder":
        constants = program.graph_signature.inputs_to_lifted_tensor_constants
        held = program.constants.get(constants.get(node.name, ""))
        return held if isinstance(held, torch.Tensor) else None
    if node.op != "call_function" or _writes(node):
        return None
    known = {argument: _value(argument, program) for argument in node.all_input_nodes}
    if any(value is None for value in known.values()):
        return None

    def of(argument: Node) -> Any:
        return known[argument]

    value: torch.Tensor = node.target(*map_arg(node.args, of), **map_arg(node.kwargs, of))  # type: ignore[operator]  # an operator
    return value


def _writes(node: Node) -> bool:
    """Whether the operator changes values; `detach_`, which `torch.tensor` is traced with, changes none."""
    return node.target is not torch.ops.aten.detach_.default and node.target._schema.is_mutable  # type: ignore[union-attr]
