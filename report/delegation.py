"""The result of lowering a program, as bars: the operators that were delegated, and the memory that it needs.

Templates draw them, so that escaping is in one place. Positions and widths are from 0 to 100.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from conformance.records.run import CellRecord, PartitionRecord

from .analysis.compare import delegated_share
from .analysis.variants import Variant, variant_of
from .plots import number

#: Operators shown of those that are partly undelegated, and of those that are not, before the others are folded away.
_SHOWN = 5
#: The metrics of LOW-1 that a partition record repeats.
_IN_PARTITION = frozenset(
    ("delegates", "delegated_operators", "undelegated_operators", "program_bytes", "lower_s", "emit_s")
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar: its style class, its label, its value, and where it begins."""

    kind: str
    label: str
    value: int
    at: float
    width: float


@dataclass(frozen=True, slots=True)
class Bar:
    """Parts in a row, on a scale that the bars beside it share."""

    label: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        """The sum of its parts."""
        return sum(part.value for part in self.parts)


@dataclass(frozen=True, slots=True)
class Delegation:
    """The operators that a backend took of one program, and the program's size.

    `by_backend`, `operators` and `memory` are empty for records that only have counts. Undelegated operators come
    first. `share` is the delegated share, 0 to 1; None for a program without operators.
    """

    variant: Variant
    delegates: int
    by_backend: tuple[tuple[str, int], ...]
    delegated: int
    undelegated: int
    share: float | None
    operators: tuple[Bar, ...]
    memory: tuple[Bar, ...]
    facts: tuple[tuple[str, str], ...]

    @property
    def shown(self) -> tuple[Bar, ...]:
        """The operators that are not folded away: none, if nothing was delegated and one bar shows that."""
        partly = [bar for bar in self.operators if bar.parts[-1].value]
        wholly = [bar for bar in self.operators if not bar.parts[-1].value]
        return (*partly[:_SHOWN], *wholly[:_SHOWN]) if self.delegated else ()

    @property
    def folded(self) -> tuple[Bar, ...]:
        """The other operators."""
        shown = {bar.label for bar in self.shown}
        return tuple(bar for bar in self.operators if bar.label not in shown)


def delegations(cells: Iterable[CellRecord]) -> tuple[Delegation, ...]:
    """The delegation of each program that was counted; those with delegated operators first."""
    found = []
    for cell in cells:
        if cell.partition:
            found.append(_partitioned(cell, cell.partition))
        elif delegated_share(cell) is not None:
            found.append(_counted(cell, dict(cell.metrics or {})))
    return tuple(sorted(found, key=lambda each: not each.delegated))


def size(value: int) -> str:
    """`712 bytes`, `96.5 KiB`, `1.2 MiB`."""
    if value < 1024:
        return f"{value} bytes"
    amount, unit = value / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}"


def _partitioned(cell: CellRecord, partition: PartitionRecord) -> Delegation:
    others = [(name, number(value)) for name, value in (cell.metrics or {}).items() if name not in _IN_PARTITION]
    moved = "; ".join(f"{name} {size(moved)}" for name, moved in list(partition.moved.items())[:_SHOWN])
    facts = [("moved a token by portable kernels", moved)] if moved else []
    facts += [("lowered in", f"{number(partition.lower_s)} s"), ("emitted in", f"{number(partition.emit_s)} s")]
    return Delegation(
        variant_of(cell),
        sum(partition.delegates.values()),
        tuple(sorted(partition.delegates.items(), key=lambda each: (-each[1], each[0]))),
        sum(partition.delegated.values()),
        sum(partition.undelegated.values()),
        delegated_share(cell),
        _operators(partition.delegated, partition.undelegated),
        _memory(partition),
        (*facts, *others),
    )


def _counted(cell: CellRecord, metrics: dict[str, float]) -> Delegation:
    delegated, undelegated = int(metrics.pop("delegated_operators")), int(metrics.pop("undelegated_operators"))
    delegates = int(metrics.pop("delegates", 0))
    others = tuple((name, number(value)) for name, value in metrics.items())
    return Delegation(variant_of(cell), delegates, (), delegated, undelegated, delegated_share(cell), (), (), others)


def _operators(delegated: Mapping[str, int], undelegated: Mapping[str, int]) -> tuple[Bar, ...]:
    names = sorted(
        {*delegated, *undelegated},
        key=lambda name: (-undelegated.get(name, 0), -delegated.get(name, 0), name),
    )
    return _bars(
        (
            name,
            (
                ("delegated", "delegated", delegated.get(name, 0)),
                ("undelegated", "not delegated", undelegated.get(name, 0)),
            ),
        )
        for name in names
    )


def _memory(partition: PartitionRecord) -> tuple[Bar, ...]:
    # Clamp at 0: a delegate may keep caches of its own, and constants may be counted twice.
    rest = max(0, partition.program_bytes - partition.constant_bytes)
    activations = max(0, partition.planned_bytes - partition.cache_bytes)
    return _bars(
        (
            (
                "program",
                (("constants", "constants", partition.constant_bytes), ("code", "instructions and delegates", rest)),
            ),
            (
                "planned memory",
                (("caches", "caches", partition.cache_bytes), ("activations", "activations", activations)),
            ),
        )
    )


def _bars(rows: Iterable[tuple[str, tuple[tuple[str, str, int], ...]]]) -> tuple[Bar, ...]:
    """Bars on one scale, on which the longest has the full width."""
    kept = list(rows)
    longest = max((sum(value for *_, value in parts) for _, parts in kept), default=0) or 1

    def parts_of(parts: tuple[tuple[str, str, int], ...]) -> Iterable[Part]:
        start = 0
        for kind, label, value in parts:
            yield Part(kind, label, value, round(100 * start / longest, 2), round(100 * value / longest, 2))
            start += value

    return tuple(Bar(label, tuple(parts_of(parts))) for label, parts in kept)
