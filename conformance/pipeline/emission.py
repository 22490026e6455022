"""What an emitted program asks of the runtime: its kernels, its memory, and what it holds twice or in vain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from executorch.exir import EdgeProgramManager, ExecutorchProgramManager
from executorch.exir.lowered_backend_module import LoweredBackendModule
from executorch.exir.tensor import TensorSpec
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from conformance.pipeline.artifact import CacheBuffer, EmissionReport, StoredConstant
from conformance.pipeline.contents import digest, held_tensors, occurrences

#: Operators that give a whole tensor with a few positions written anew, where the cache is their first argument.
_UPDATES = re.compile(r"\baten\.(index_put|index_copy|scatter|select_scatter|slice_scatter)\.\w*out\b")
#: Constants of fewer bytes are not looked for: lifted numbers and short vectors are equal by chance.
_LEAST_BYTES = 64


def emission_report(
    edge: EdgeProgramManager, emitted: ExecutorchProgramManager, held: Mapping[str, torch.Tensor]
) -> EmissionReport:
    """Inspect an emitted program.

    Args:
        edge: The lowered program that it was emitted from.
        emitted: The emitted program.
        held: The tensors of the exported program.
    """
    lowered = edge.exported_program()
    graph_module = emitted.exported_program().graph_module
    nodes = {node.name: node for node in graph_module.graph.nodes if node.op == "placeholder"}
    signature = lowered.graph_signature
    mutated = set(signature.buffers_to_mutate.values())
    caches = {name: nodes[name] for name, target in signature.inputs_to_buffers.items() if target in mutated}
    known = {name: value for name, value in held.items() if name not in mutated}
    outputs = {
        _address(spec) for node in graph_module.graph.output_node().all_input_nodes for spec in _node_specs(node)
    }
    plan = emitted.executorch_program.execution_plan[0]
    parts = (emitted.exported_program(), *_delegated(lowered))
    repeated, unread = _repeated_and_unread(bytes(emitted.buffer), parts, known)
    return EmissionReport(
        operators=kernels_of(plan),
        planned_bytes=sum(plan.non_const_buffer_sizes),
        alive_bytes=_most_alive(graph_module),
        cache_bytes=sum(_size(node.meta["spec"]) for node in caches.values()),
        constant_bytes=_constant_bytes(lowered, emitted),
        exported_bytes=sum({value.untyped_storage().data_ptr(): value.nbytes for value in known.values()}.values()),
        caches=tuple(_cache_buffer(name, node.meta["spec"]) for name, node in caches.items()),
        unplanned=tuple(name for name, node in caches.items() if not _planned(node.meta["spec"])),
        copied=tuple(name for name, node in caches.items() if any(_copies(node, user) for user in node.users)),
        returned=tuple(name for name, node in caches.items() if _address(node.meta["spec"]) in outputs),
        repeated=repeated,
        unread=unread,
    )


def kernels_of(plan: Any) -> tuple[str, ...]:
    """The kernels that an `ExecutionPlan` calls, such as ``aten::add.out``."""
    return tuple(f"{op.name}.{op.overload}" if op.overload else op.name for op in plan.operators)


def _cache_buffer(name: str, spec: TensorSpec) -> CacheBuffer:
    return CacheBuffer(name, str(spec.dtype).removeprefix("torch."), tuple(map(int, spec.shape)), _size(spec))


def _planned(spec: TensorSpec) -> bool:
    return not spec.const and spec.mem_id is not None and spec.mem_offset is not None


def _copies(cache: Node, user: Node) -> bool:
    """Whether `user` makes a second tensor of the cache, with a few positions written anew."""
    return user.op == "call_function" and user.args[0] is cache and bool(_UPDATES.search(str(user.target)))


def _size(spec: TensorSpec) -> int:
    return int(spec.allocated_memory)


def _most_alive(graph_module: GraphModule) -> int:
    """By ExecuTorch's own lifetimes; tensors at one address at one time, such as views, count once.

    No operator writes what only the output refers to (docs/findings/planned-twice.md).
    """
    computed = (node for node in graph_module.graph.nodes if node.op != "output")
    specs = {id(spec): spec for node in computed for spec in _node_specs(node)}
    planned = [spec for spec in specs.values() if _planned(spec) and spec.lifetime[0] is not None]
    most = 0
    for time in sorted({spec.lifetime[0] for spec in planned}):
        sizes: dict[tuple[int, int], int] = {}
        for spec in planned:
            if spec.lifetime[0] <= time <= spec.lifetime[1]:
                sizes[_address(spec)] = max(sizes.get(_address(spec), 0), _size(spec))
        most = max(most, sum(sizes.values()))
    return most


def _address(spec: TensorSpec) -> tuple[int, int]:
    return spec.mem_id, spec.mem_offset


def _node_specs(node: Node) -> Iterator[TensorSpec]:
    value: Any = node.meta.get("spec")
    for spec in value if isinstance(value, tuple | list) else (value,):
        if isinstance(spec, TensorSpec):
            yield spec


def _constant_bytes(lowered: ExportedProgram, emitted: ExecutorchProgramManager) -> int:
    constants = sum(len(buffer.storage) for buffer in emitted.executorch_program.constant_buffer)
    named: dict[str, int] = {}
    for module in _delegates(lowered):
        data = module.named_data_store_output
        if data is not None:
            named |= {key: len(data.buffers[entry.buffer_index]) for key, entry in data.pte_data.items()}
    return constants + sum(named.values())


def _delegates(lowered: ExportedProgram) -> Iterator[Any]:
    return (module for module in lowered.graph_module.modules() if isinstance(module, LoweredBackendModule))


def _delegated(lowered: ExportedProgram) -> Iterator[ExportedProgram]:
    """The programs that delegates were made of, with the constants that they own."""
    return (delegate.original_module for delegate in _delegates(lowered))


def _repeated_and_unread(
    program: bytes, parts: Iterable[ExportedProgram], known: Mapping[str, torch.Tensor]
) -> tuple[tuple[StoredConstant, ...], dict[str, int]]:
    known = {name: value for name, value in known.items() if _is_telling(value)}
    idle = _without_reader(parts, known)
    stored = occurrences(program, [*idle.values(), *(layout for value in known.values() for layout in _layouts(value))])
    unread = {name: value.nbytes for name, value in idle.items() if stored[digest(value)]}
    return tuple(_repeated(stored, known)), unread


def _repeated(stored: Mapping[str, int], known: Mapping[str, torch.Tensor]) -> Iterator[StoredConstant]:
    by_content: dict[str, tuple[str, set[int], torch.Tensor]] = {}
    for name, value in known.items():
        _, storages, _ = by_content.setdefault(digest(value), (name, set(), value))
        storages.add(value.untyped_storage().data_ptr())
    for content, (name, storages, value) in by_content.items():
        copies = sum(stored[layout] for layout in set(map(digest, _layouts(value))))
        if copies > 1:
            yield StoredConstant(name, value.nbytes, copies, len(storages), content)


def _without_reader(parts: Iterable[ExportedProgram], known: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Constants of the exported program, or of a part of the lowered one, that no operator and no delegate reads."""
    candidates, read = dict(known), set()
    for part in parts:
        held = held_tensors(part)
        nodes = {node.name: node for node in part.graph.nodes if node.op == "placeholder"}
        for spec in part.graph_signature.input_specs:
            value = held.get(spec.target or "")
            if value is None or not _is_telling(value):
                continue
            if nodes[spec.arg.name].users:
                read.add(digest(value))
            else:
                candidates.setdefault(str(spec.target), value)
    return {name: value for name, value in candidates.items() if digest(value) not in read}


def _is_telling(value: torch.Tensor) -> bool:
    """Whether the content is not there by chance."""
    return value.nbytes >= _LEAST_BYTES and bool((value != value.flatten()[0]).any())


def _layouts(value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensor as it is, and transposed."""
    return (value, value.t()) if value.ndim == 2 else (value,)
