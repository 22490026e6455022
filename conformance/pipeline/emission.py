"""What an emitted program asks of the runtime: its kernels, its memory, and what it holds twice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from executorch.exir import EdgeProgramManager, ExecutorchProgramManager
from executorch.exir.lowered_backend_module import LoweredBackendModule
from executorch.exir.tensor import TensorSpec
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

#: Operators that give a whole tensor with a few positions written anew, where the cache is their first argument.
_UPDATES = re.compile(r"\baten\.(index_put|index_copy|scatter|select_scatter|slice_scatter)\.\w*out\b")
#: Constants of fewer bytes are not looked for: lifted numbers and short vectors are equal by chance.
_LEAST_BYTES = 64


@dataclass(frozen=True, slots=True)
class EmissionReport:
    """Read off the emitted program. Sizes are in bytes.

    Args:
        operators: The kernels that it calls, such as ``aten::add.out``.
        planned_bytes: Memory that the runtime sets aside for mutable buffers and activations.
        alive_bytes: The most of it that is in use at any one time, mutable buffers always.
        cache_bytes: The mutable buffers alone.
        constant_bytes: Constants of the program and those that delegates store beside their own data.
        exported_bytes: The constants of the exported program, tied ones once.
        caches: The mutable buffers that the lowered program still has.
        unplanned: Those of them that are not in planned memory.
        copied: Those that an update copies as a whole.
        returned: Those that are among the outputs.
        stored_twice: Constants whose bytes are in the program more often than in the exported one.
    """

    operators: tuple[str, ...]
    planned_bytes: int
    alive_bytes: int
    cache_bytes: int
    constant_bytes: int
    exported_bytes: int
    caches: tuple[str, ...]
    unplanned: tuple[str, ...]
    copied: tuple[str, ...]
    returned: tuple[str, ...]
    stored_twice: tuple[str, ...]


def held_tensors(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """The tensors of an exported program, by name: weights, constants and buffers."""
    held = {**program.state_dict, **program.constants}
    return {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}


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
    return EmissionReport(
        operators=tuple(f"{op.name}.{op.overload}" if op.overload else op.name for op in plan.operators),
        planned_bytes=sum(plan.non_const_buffer_sizes),
        alive_bytes=_most_alive(graph_module),
        cache_bytes=sum(_size(node.meta["spec"]) for node in caches.values()),
        constant_bytes=_constant_bytes(lowered, emitted),
        exported_bytes=sum({value.untyped_storage().data_ptr(): value.nbytes for value in known.values()}.values()),
        caches=tuple(caches),
        unplanned=tuple(name for name, node in caches.items() if not _planned(node.meta["spec"])),
        copied=tuple(name for name, node in caches.items() if any(_copies(node, user) for user in node.users)),
        returned=tuple(name for name, node in caches.items() if _address(node.meta["spec"]) in outputs),
        stored_twice=tuple(_stored_twice(bytes(emitted.buffer), known)),
    )


def _planned(spec: TensorSpec) -> bool:
    return not spec.const and spec.mem_id is not None and spec.mem_offset is not None


def _copies(cache: Node, user: Node) -> bool:
    """Whether `user` makes a second tensor of the cache, with a few positions written anew."""
    return user.op == "call_function" and user.args[0] is cache and bool(_UPDATES.search(str(user.target)))


def _size(spec: TensorSpec) -> int:
    return int(spec.allocated_memory)


def _most_alive(graph_module: GraphModule) -> int:
    """By ExecuTorch's own lifetimes; tensors at one address at one time, such as views, count once."""
    specs = {id(spec): spec for node in graph_module.graph.nodes for spec in _node_specs(node)}
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
    for module in lowered.graph_module.modules():
        data = module.named_data_store_output if isinstance(module, LoweredBackendModule) else None
        if data is not None:
            named |= {key: len(data.buffers[entry.buffer_index]) for key, entry in data.pte_data.items()}
    return constants + sum(named.values())


def _stored_twice(program: bytes, known: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Names of constants that are found too often, as they are or transposed."""
    by_content: dict[bytes, tuple[str, set[int], torch.Tensor]] = {}
    for name, value in known.items():
        if value.nbytes >= _LEAST_BYTES and bool((value != value.flatten()[0]).any()):
            _, storages, _ = by_content.setdefault(_bytes(value), (name, set(), value))
            storages.add(value.untyped_storage().data_ptr())
    for content, (name, storages, value) in by_content.items():
        copies = sum(program.count(layout) for layout in {content, *_transposed(value)})
        if copies > len(storages):
            yield name


def _transposed(value: torch.Tensor) -> Iterable[bytes]:
    return (_bytes(value.t()),) if value.ndim == 2 else ()


def _bytes(value: torch.Tensor) -> bytes:
    return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
