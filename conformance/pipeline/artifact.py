"""What is known of a lowered and emitted program: plain records, which need no ExecuTorch to be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UndelegatedNode:
    """An operator outside all delegates.

    Args:
        operator: Its name, such as ``aten.mean.dim``.
        values: What it computes, such as ``float32 [1, 1, 64]``.
        source: The line of the model that made it; empty where that is not known.
        reason: The partitioner's, as it logged it; empty where it logged none.
        moved: How many bytes it reads and writes in a call with one token.
    """

    operator: str
    values: str
    source: str
    reason: str
    moved: int = 0

    def __str__(self) -> str:
        return f"{self.operator} ({self.values}{f'; {self.source}' if self.source else ''})"


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """Counted on the lowered graph and the graphs inside it, before emission adds allocations and copies.

    ExecuTorch's `get_delegation_info` counts the same, but it looks at the outermost graph only, counts `getitem` as an
    operator, and knows operators by the names of their nodes; a test holds the two together.

    Args:
        delegates: Number of delegated subgraphs, by the id of the backend that they are for.
        delegated: Number of operators inside them, by name.
        undelegated_nodes: The operators outside, which portable kernels run.
        partitioner_would_take: The nodes that the partitioners take when they are asked again.
        undeclared_ops: Operators inside delegates that the backend does not declare.
        weights_as_inputs: Weight matrices that are inputs of a delegate at each call, which does not own them.
        buffers_owned_by_delegate: Buffers that the program mutates and a delegate holds.
        buffers_frozen_in_delegate: Buffers that the program mutates, and of which a delegate keeps what they held when
            it was exported.
        cache_updates_in_delegate: Buffers that the program mutates inside a delegate, which has one value as an input
            and the next as an output; with the operator that writes. Not those whose next value is computed whole, like
            the state of a recurrence.
        nodes_missing_pass_mark: Operators without the mark of a user-defined pass that ran before partitioning.
    """

    delegates: Mapping[str, int]
    delegated: Mapping[str, int]
    undelegated_nodes: tuple[UndelegatedNode, ...]
    partitioner_would_take: tuple[str, ...]
    undeclared_ops: tuple[str, ...]
    weights_as_inputs: tuple[str, ...]
    buffers_owned_by_delegate: tuple[str, ...]
    buffers_frozen_in_delegate: tuple[str, ...]
    cache_updates_in_delegate: Mapping[str, str]
    nodes_missing_pass_mark: tuple[str, ...]

    @property
    def undelegated(self) -> Mapping[str, int]:
        """Number of operators outside all delegates, by name."""
        return dict(sorted(Counter(node.operator for node in self.undelegated_nodes).items()))

    @property
    def moved(self) -> Mapping[str, int]:
        """How many bytes operators outside all delegates move in a call with one token, by name; the most first."""
        moved: Counter[str] = Counter()
        for node in self.undelegated_nodes:
            moved[node.operator] += node.moved
        return dict(moved.most_common())


@dataclass(frozen=True, slots=True)
class StoredConstant:
    """A constant of the exported program whose bytes are in the emitted one more than once.

    Args:
        name: Its first name in the exported program.
        size: Bytes of one copy.
        copies: How often they are there, as they are or transposed, in the program or in a delegate.
        tensors: How many tensors of the exported program have this content.
        digest: Of the content.
    """

    name: str
    size: int
    copies: int
    tensors: int
    digest: str


@dataclass(frozen=True, slots=True)
class CacheBuffer:
    """A mutable buffer of the lowered program; `dtype` without `torch.`, `size` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int


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
        repeated: Constants whose bytes are in the program more than once.
        unread: By name, the bytes of constants in the program that no operator and no delegate reads.
    """

    operators: tuple[str, ...]
    planned_bytes: int
    alive_bytes: int
    cache_bytes: int
    constant_bytes: int
    exported_bytes: int
    caches: tuple[CacheBuffer, ...]
    unplanned: tuple[str, ...]
    copied: tuple[str, ...]
    returned: tuple[str, ...]
    repeated: tuple[StoredConstant, ...]
    unread: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Artifact:
    """An ExecuTorch program, as the bytes of a `.pte` file, and how it came about. Times are in seconds.

    `again` is how the program that another process made of the same differs, where that was asked (LOW-8); empty if
    they are the same bytes.
    """

    program: bytes
    partition: PartitionReport
    emission: EmissionReport
    lower_s: float
    emit_s: float
    again: str | None = None
