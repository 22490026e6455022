"""Constant folding of what the edge dialect does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._sympy.value_ranges import bound_sympy


def fold_erfinv(program: ExportedProgram) -> None:
    """Rewrite each `erfinv` of a constant scalar as its value.

    `aten.erfinv` is not a Core ATen operator, so the edge dialect of ExecuTorch 1.5.1 refuses it. Gemma 3n computes it
    of the sparsity in its config, by `torch.distributions.Normal.icdf`.

    Args:
        program: Its graph is rewritten in place.
    """
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.erfinv.default):
        value = _constant(node, program)
        if value is None or value.ndim:
            continue
        with program.graph.inserting_before(node):
            folded = program.graph.call_function(
                torch.ops.aten.full.default, ([], value.item()), {"dtype": value.dtype, "device": value.device}
            )
        folded.meta = node.meta
        node.replace_all_uses_with(folded)
        program.graph.erase_node(node)
    program.graph_module.recompile()


def fold_symbolic_maxima(program: ExportedProgram) -> None:
    """Rewrite each `sym_max` that has one value, whatever the inputs, as that value.

    The edge verifier of ExecuTorch 1.5.1 refuses `sym_max`. MPT slices its position bias from `max(0, 1 - length)` on,
    where the length is 1 or more: torch.export knows the bounds of a length, and keeps the maximum.

    Args:
        program: Its graph is rewritten in place. A maximum with several values stays.
    """
    for node in program.graph.find_nodes(op="call_function", target=torch.sym_max):
        bounds = bound_sympy(node.meta["val"].node.expr, program.range_constraints)
        if bounds.is_singleton():
            node.replace_all_uses_with(int(bounds.lower))
            program.graph.erase_node(node)
    program.graph_module.recompile()


def _constant(node: Node, program: ExportedProgram) -> torch.Tensor | None:
    """The value of `node` if it is the same in every call; None if it depends on inputs, weights or buffers."""
    if node.op == "placeholder":
        constants = program.graph_signature.inputs_to_lifted_tensor_constants
        constant = program.constants.get(constants.get(node.name, ""))
        return constant if isinstance(constant, torch.Tensor) else None
    if node.op != "call_function" or _mutates(node):
        return None
    values = {argument: _constant(argument, program) for argument in node.all_input_nodes}
    if any(value is None for value in values.values()):
        return None

    def value_of(argument: Node) -> Any:
        return values[argument]

    arguments, options = map_arg(node.args, value_of), map_arg(node.kwargs, value_of)
    result: torch.Tensor = node.target(*arguments, **options)  # type: ignore[operator]  # an operator
    return result


def _mutates(node: Node) -> bool:
    """Whether the operator changes values; `detach_`, which `torch.tensor` is traced with, does not."""
    return node.target is not torch.ops.aten.detach_.default and node.target._schema.is_mutable  # type: ignore[union-attr]
