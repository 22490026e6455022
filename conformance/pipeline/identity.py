"""What makes two exported programs the same one: graphs, interface and tensors, all that lowering draws on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

#: What else of a node partitioners go by, beside the modules of the model that it came from: which function.
_ORIGINS = ("torch_fn", "source_fn_stack")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
#: Characters of a part that a difference shows.
_SHOWN = 120


def texts(program: ExportedProgram) -> Iterator[str]:
    """Every node of the graph and of the graphs inside it, and the interface; without addresses in memory."""
    for part in itertools.chain(_graphs(program), _interface(program)):
        yield _ADDRESS.sub("", part)


def tensors(program: ExportedProgram) -> Iterator[tuple[str, bytes]]:
    """The name and kind of each weight, buffer and constant, and its bytes."""
    for name, held in {**program.state_dict, **program.constants}.items():
        if isinstance(held, torch.Tensor):
            content = held.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            yield f"{name} {_described(held)}", content


def difference(first: ExportedProgram, second: ExportedProgram) -> str:
    """A phrase for the first part in which two programs differ; empty if they are the same."""
    for one, other in itertools.zip_longest(texts(first), texts(second), fillvalue=""):
        if one != other:
            same = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), 0)
            return f"{_excerpt(other, same)} after {_excerpt(one, same)}"
    for before, after in itertools.zip_longest(tensors(first), tensors(second), fillvalue=("nothing", b"")):
        if before[0] != after[0]:
            return f"{after[0]} after {before[0]}"
        if before != after:
            return f"other values of {before[0]}"
    return ""


def _excerpt(part: str, index: int) -> str:
    return repr(part[max(0, index - _SHOWN // 2) : index + _SHOWN // 2])


def _graphs(program: ExportedProgram) -> Iterator[str]:
    """Every node of the graph and of the graphs inside it."""
    for name, module in program.graph_module.named_modules():
        if isinstance(module, GraphModule):
            yield name
            yield from map(_node, module.graph.nodes)


def _node(node: Node) -> str:
    value = [_described(leaf) for leaf in tree_leaves(node.meta.get("val"))]
    origins = [node.meta.get(origin) for origin in _ORIGINS]
    # By path and class: TorchDynamo's keys are addresses in memory.
    origins.append(list(node.meta.get("nn_module_stack", {}).values()))
    return repr((node.op, node.name, str(node.target), node.args, node.kwargs, value, origins))


def _interface(program: ExportedProgram) -> Iterator[str]:
    yield repr(program.graph_signature)
    yield repr(program.range_constraints)
    yield repr(program.call_spec)


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)} {list(value.stride())}"
    return str(value)
