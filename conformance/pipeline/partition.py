"""Which operators of a lowered program are delegated, which are not and why, and what delegates must not hold."""

from __future__ import annotations

import copy
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from executorch.exir import EdgeProgramManager
from executorch.exir.backend.utils import WhyNoPartition, is_same_node
from executorch.exir.lowered_backend_module import LoweredBackendModule
from torch._higher_order_ops.auto_functionalize import auto_functionalized_v2
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from conformance.pipeline.artifact import PartitionReport, UndelegatedNode

#: The key in a node's `meta` under which the pass below puts its mark.
_STAMP = "conformance_stamp"
#: Not operators: what picks one of several results, and the call of a delegate.
_NO_OPERATORS = ("getitem", "executorch_call_delegate")
#: Operators that write into a tensor, and those that hand on what they are given.
_UPDATES = re.compile(r"^aten\.(index_put|index_copy|scatter|select_scatter|slice_scatter)\.")
#: Operators that read of their first input no more than they return.
_PARTS = re.compile(r"^aten\.(embedding|gather|index|index_select|select_copy|slice_copy|narrow_copy)\.")
_COPIES = re.compile(r"(clone|copy|clone_dim_order|to_dim_order_copy)\.\w+$")
#: A frame of a node's stack trace: file, line, function, and the source line if it was there.
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n(?: {4}(.+)\n?)?')
#: What comes before the part of a path that is the same on every machine.
_ELSEWHERE = re.compile(r"^.*/(?:site-packages/|(?=conformance/))")


def stamp(graph_module: GraphModule) -> PassResult:
    """A pass as users write them: its result is another graph module, whose operators all carry a mark."""
    stamped = copy.deepcopy(graph_module)
    for graph in _graphs(stamped):
        for node in _operators(graph):
            node.meta[_STAMP] = True
    return PassResult(stamped, True)


def partition_report(
    edge: EdgeProgramManager, partitioners: Sequence[Any], declares: Callable[[str], bool] | None
) -> PartitionReport:
    """Inspect a lowered program, without changing it.

    Args:
        edge: The program.
        partitioners: To ask again.
        declares: Whether the backend says that it can take an operator, by name without namespace.
    """
    program = edge.exported_program()
    delegates = [module for module in program.graph_module.modules() if isinstance(module, LoweredBackendModule)]
    inside = [node for delegate in delegates for node in _operators(delegate.original_module.graph_module)]
    outside = [node for graph in _graphs(program.graph_module) for node in _operators(graph)]
    partitioner_would_take, reasons = _asked_again(program, partitioners)
    delegated = Counter(map(_name, inside))
    return PartitionReport(
        delegates=dict(sorted(Counter(delegate.backend_id for delegate in delegates).items())),
        delegated=dict(sorted(delegated.items())),
        undelegated_nodes=tuple(
            UndelegatedNode(_name(node), _values(node), _source(node), reasons.get(node.name, ""), _moved(node))
            for node in outside
        ),
        partitioner_would_take=partitioner_would_take,
        undeclared_ops=tuple(name for name in sorted(delegated) if declares and not declares(_short(name))),
        weights_as_inputs=tuple(sorted(_weights_as_inputs(program))),
        buffers_owned_by_delegate=tuple(sorted(_buffers_owned(delegates))),
        buffers_frozen_in_delegate=tuple(sorted(_buffers_frozen(program, delegates))),
        cache_updates_in_delegate=dict(sorted(_cache_updates(program))),
        nodes_missing_pass_mark=tuple(sorted({_name(node) for node in (*inside, *outside) if _STAMP not in node.meta})),
    )


def _graphs(graph_module: GraphModule) -> Iterator[GraphModule]:
    """The graph and the graphs inside it, such as the body of a scan; not those of delegates."""
    yield from (module for module in graph_module.modules() if isinstance(module, GraphModule))


def _operators(graph_module: GraphModule) -> Iterator[Node]:
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and _name(node) not in _NO_OPERATORS:
            yield node


def _name(node: Node) -> str:
    """Of an operator that torch wraps because it writes into its arguments, the operator's own."""
    if node.target is auto_functionalized_v2:
        return str(node.args[0])
    return str(getattr(node.target, "__name__", node.target))


def _values(node: Node) -> str:
    value = node.meta.get("val")
    tensors = value if isinstance(value, tuple | list) else (value,)
    return ", ".join(
        f"{str(item.dtype).removeprefix('torch.')} {list(item.shape)}" if isinstance(item, torch.Tensor) else str(item)
        for item in tensors
    )


def _moved(node: Node) -> int:
    """What the operator reads and writes, in bytes. An update is in place, and what picks rows reads these alone."""
    name = _name(node)
    if node.target is auto_functionalized_v2:
        written_to: Any = node.kwargs["_all_bases"]
        return 2 * sum(_bytes(each) for each in node.all_input_nodes if each not in written_to)
    if _UPDATES.match(name):
        return 2 * _bytes(max(node.all_input_nodes[1:], key=lambda each: each.meta["val"].is_floating_point()))
    results = _bytes(node)
    return 2 * results if _PARTS.match(name) else results + sum(map(_bytes, node.all_input_nodes))


def _bytes(node: Node) -> int:
    """The size of a node's tensors with a sequence of one token."""
    value = node.meta.get("val")
    tensors = value if isinstance(value, tuple | list) else (value,)
    return sum(
        each.element_size() * math.prod(map(_with_one_token, each.shape))
        for each in tensors
        if isinstance(each, torch.Tensor)
    )


def _with_one_token(size: Any) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))


def _source(node: Node) -> str:
    """The innermost frame inside a model's own code, else the innermost of all."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    if not frames:
        return ""
    models = [frame for frame in frames if "/transformers/models/" in frame[0]]
    file, line, function, text = (models or frames)[-1]
    return f"{_ELSEWHERE.sub('', file)}:{line} in {function}{f': {text.strip()}' if text else ''}"


def _asked_again(program: ExportedProgram, partitioners: Sequence[Any]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The nodes that would be taken now, and by node the partitioners' reasons against the others."""
    partitioner_would_take: list[str] = []
    with _logged_reasons() as reasons:
        for partitioner in partitioners:
            nodes = [node for node in program.graph.nodes if node.op == "call_function"]
            before = [node.meta.pop("delegation_tag", None) for node in nodes]
            partitioner.partition(program)
            for node, tag in zip(nodes, before, strict=True):
                if node.meta.pop("delegation_tag", None) is not None:
                    partitioner_would_take.append(f"{node.name} ({_name(node)})")
                if tag is not None:
                    node.meta["delegation_tag"] = tag
    return tuple(partitioner_would_take), reasons


@contextmanager
def _logged_reasons() -> Iterator[dict[str, str]]:
    """The first reason that ExecuTorch's partitioners log for not taking a node, by the node's name."""
    reasons: dict[str, str] = {}
    heard: list[WhyNoPartition] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.msg, WhyNoPartition) and record.msg.node is not None:
                reasons.setdefault(record.msg.node.name, record.msg.reason)
                heard.append(record.msg)

    logger, listener = logging.getLogger("executorch"), Listener()
    level, propagates = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield reasons
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = propagates
        _forget(heard)


def _forget(reasons: Iterable[WhyNoPartition]) -> None:
    """Make ExecuTorch forget the nodes that it saw, each of which holds the lowered program that it is part of.

    It keeps the last one that was refused, and, in a memo without bound, all that it compared: weights and delegates of
    each program that a process lowers (docs/findings/programs-kept.md).
    """
    for reason in reasons:
        reason.node = None
    clear = getattr(is_same_node, "cache_clear", None)
    if clear is not None:
        clear()


def _short(name: str) -> str:
    """Without namespace: ``mean.dim`` for ``aten.mean.dim``; operators of torch itself come without one."""
    return ".".join(name.split(".")[-2:])


def _weights_as_inputs(program: ExportedProgram) -> Iterator[str]:
    """Weight matrices, other than mutated buffers, that are arguments of a delegate's call.

    Vectors and numbers do not count: XNNPACK takes those of elementwise operators as inputs, and nothing is packed.
    """
    mutated = set(program.graph_signature.buffers_to_mutate.values())
    held = {**program.state_dict, **program.constants}
    constant = {
        spec.arg.name: str(spec.target)
        for spec in program.graph_signature.input_specs
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
        and spec.target not in mutated
        and getattr(held.get(str(spec.target)), "ndim", 0) > 1
    }
    for node in program.graph.nodes:
        if node.op == "call_function" and _name(node) == "executorch_call_delegate":
            yield from (constant[arg.name] for arg in node.args if isinstance(arg, Node) and arg.name in constant)


def _buffers_owned(delegates: Sequence[LoweredBackendModule]) -> Iterator[str]:
    for delegate in delegates:
        yield from map(str, delegate.original_module.graph_signature.buffers_to_mutate.values())


def _buffers_frozen(program: ExportedProgram, delegates: Sequence[LoweredBackendModule]) -> set[str]:
    """A buffer that is also read outside is copied into the delegate, if its partitioner labels it (1.5.1)."""
    mutated = set(program.graph_signature.buffers_to_mutate.values())
    signatures = [delegate.original_module.graph_signature for delegate in delegates]
    return {
        buffer
        for signature in signatures
        for buffer in mutated.intersection(signature.inputs_to_buffers.values())
        if buffer not in signature.buffers_to_mutate.values()
    }


def _cache_updates(program: ExportedProgram) -> Iterator[tuple[str, str]]:
    """Goes by what reaches a buffer: DeepSeek V3, for one, also writes keys together that it has never cached."""
    nodes = {node.name: node for node in program.graph.nodes}
    for output, buffer in program.graph_signature.buffers_to_mutate.items():
        picked = nodes[output]
        if picked.op != "call_function" or _name(picked) != "getitem":
            continue
        call, index = picked.args
        if _name(call) != "executorch_call_delegate":
            continue
        delegate = program.graph_module.get_submodule(str(call.args[0].target))
        (results,) = delegate.original_module.graph.output_node().args
        writer = results[index]
        while writer.op == "call_function" and _COPIES.search(_name(writer)):
            writer = writer.all_input_nodes[0]
        if _UPDATES.match(_name(writer)):
            yield buffer, _name(writer)
