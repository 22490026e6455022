"""Matrix products and convolutions of weights as the model stores them, not of views of these.

A backend packs weights ahead of time if they are direct inputs of an operator. XNNPACK's partitioner does not delegate
an operator whose weight is the result of another ("Expected weight to be a static param"), and the view is computed at
each call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

_aten = torch.ops.aten
_TRANSPOSED = (_aten.numpy_T.default, _aten.t.default)
#: They keep the elements and their order; `select` does only if the dimension that it drops has one element.
_RESHAPING = (
    *(_aten.view.default, _aten.reshape.default, _aten.alias.default, _aten.unsqueeze.default),
    *(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.select.int),
)


def use_stored_weights(program: ExportedProgram) -> None:
    """Rewrite products by a weight as `linear`, and let convolutions use their weight before it was reshaped.

    Falcon multiplies by `weight.T`, the first Mamba multiplies its weight by a transposed input, and short convolutions
    squeeze a dimension of their weight and unsqueeze it again. The results are the same.

    Args:
        program: Its graph is rewritten in place.
    """
    weights = {spec.arg.name for spec in program.graph_signature.input_specs if spec.target in program.state_dict}
    for node in program.graph.find_nodes(op="call_function", target=_aten.matmul.default):
        left, right = node.args
        if right.target in _TRANSPOSED and _is_weight(right.args[0], weights, rank=2):
            node.target = _aten.linear.default
            node.args = (left, right.args[0])
        elif _is_weight(left, weights, rank=2) and len(_shape(right)) > 2:
            _replace_by_transposed_linear(node, left, right)
    for target in (_aten.conv1d.default, _aten.conv1d.padding, _aten.convolution.default):
        for node in program.graph.find_nodes(op="call_function", target=target):
            stored = _origin(node.args[1])
            if _is_weight(stored, weights, rank=3) and _shape(stored) == _shape(node.args[1]):
                node.update_arg(1, stored)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def _replace_by_transposed_linear(node: Node, weight: Node, inputs: Node) -> None:
    """Rewrite `weight @ inputs` as the transpose of `linear(transposed inputs, weight)`."""
    with node.graph.inserting_before(node):
        transposed = node.graph.call_function(_aten.transpose.int, (inputs, -1, -2))
        product = node.graph.call_function(_aten.linear.default, (transposed, weight))
    transposed.meta = {**node.meta, "val": inputs.meta["val"].transpose(-1, -2)}
    product.meta = {**node.meta, "val": node.meta["val"].transpose(-1, -2)}
    node.target = _aten.transpose.int
    node.args = (product, -1, -2)


def _origin(node: Node) -> Node:
    """The node that `node` is a reshaped view of; `node` itself if it is not reshaped."""
    while node.target in _RESHAPING:
        source: Any = node.args[0]
        dim: Any = node.args[1:2]
        if node.target is _aten.select.int and _shape(source)[dim[0]] != 1:
            break
        node = source
    return node


def _is_weight(node: Node, weights: set[str], *, rank: int) -> bool:
    return node.op == "placeholder" and node.name in weights and len(_shape(node)) == rank


def _shape(node: Node) -> list[int]:
    return list(node.meta["val"].shape)
