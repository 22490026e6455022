"""Matrix products in a graph: a language model spends most of its time and weights on them."""

from __future__ import annotations

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument
from torch.fx import Node

#: Operators of ATen, without namespace and overload, in exported programs and in those of the edge dialect.
PRODUCTS = frozenset(
    {
        *("linear", "addmm", "mm", "bmm", "baddbmm", "matmul", "einsum"),
        *("convolution", "conv1d", "conv2d", "scaled_dot_product_attention"),
    }
)


def multiplies_by(program: ExportedProgram, name: str) -> bool:
    """Whether the weight `name`, or a view of it, is an operand of a matrix product, and is more than a vector.

    Operands of elementwise products do not count, whatever their shape: XNNPACK has them as inputs, and packs nothing.
    """
    held = program.state_dict.get(name, program.constants.get(name))
    if not isinstance(held, torch.Tensor) or sum(size > 1 for size in held.shape) < 2:
        return False
    specs = program.graph_signature.input_specs
    names = {spec.arg.name for spec in specs if spec.target == name and not isinstance(spec.arg, ConstantArgument)}
    views = [node for node in program.graph.nodes if node.name in names]
    for node in views:
        for user in node.users:
            if _operator(user) in PRODUCTS:
                return True
            if user.all_input_nodes == [node] and user not in views:
                views.append(user)  # made of the weight alone: a view, a slice, a copy
    return False


def _operator(node: Node) -> str:
    return node.target._schema.name.split("::")[1] if isinstance(node.target, OpOverload) else ""
