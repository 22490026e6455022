"""Tensors that a pass adds to an exported program."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node


def constant(program: ExportedProgram, name: str, value: torch.Tensor) -> Node:
    """The placeholder of a new constant of the program.

    Each use has one of its own: ExecuTorch 1.5.1 loses the copies that it makes of a constant for several delegates
    ("... is not a buffer"), and keeps the bytes of equal ones once.

    Args:
        program: Its graph, signature and constants are changed in place.
        name: What it is; a number is put behind it.
        value: The tensor.
    """
    signature, graph = program.graph_signature, program.graph
    placeholders = graph.find_nodes(op="placeholder")
    name = f"{name}_{sum(target.startswith(f'{name}_') for target in program.constants)}"
    # Weights, buffers and constants come before what a caller gives.
    place = next(index for index, spec in enumerate(signature.input_specs) if spec.kind is InputKind.USER_INPUT)
    with graph.inserting_before(placeholders[place]):
        node: Node = graph.create_node("placeholder", f"c_{name}", name=f"c_{name}")
    mode = next(v.fake_mode for p in placeholders if isinstance(v := p.meta.get("val"), torch._subclasses.FakeTensor))
    node.meta["val"] = mode.from_tensor(value, static_shapes=True)
    spec = InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(node.name), name)
    signature.input_specs.insert(place, spec)
    program.constants[name] = value
    return node
