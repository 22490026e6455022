"""What a backend's partitioners took, and what they would still take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from executorch.devtools.backend_debug import get_delegation_info
from executorch.exir import EdgeProgramManager


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """Counted by ExecuTorch's devtools on the lowered graph, before emission adds allocations and copies to it.

    Args:
        delegates: Number of delegated subgraphs.
        delegated: Number of operators inside them.
        undelegated: Number of operators left to portable kernels.
        leftover: Names of the nodes that the partitioners, asked again, would take.
    """

    delegates: int
    delegated: int
    undelegated: int
    leftover: tuple[str, ...]


def partition_report(edge: EdgeProgramManager, partitioners: Sequence[Any]) -> PartitionReport:
    """Inspect a lowered program, which is left as it was."""
    program = edge.exported_program()
    info = get_delegation_info(program.graph_module)
    leftover: list[str] = []
    for partitioner in partitioners:
        nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        before = [node.meta.pop("delegation_tag", None) for node in nodes]
        partitioner.partition(program)
        for node, tag in zip(nodes, before, strict=True):
            if node.meta.pop("delegation_tag", None) is not None:
                leftover.append(f"{node.name} ({node.target.__name__})")
            if tag is not None:
                node.meta["delegation_tag"] = tag
    return PartitionReport(
        delegates=info.num_delegated_subgraphs,
        delegated=info.num_delegated_nodes,
        undelegated=info.num_non_delegated_nodes,
        leftover=tuple(leftover),
    )
