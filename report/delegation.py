"""What lowering made of a program, as a picture: who took which operators, and what it takes in memory.

Templates draw it, so that escaping is in one place. Places and widths are from 0 to 100.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from conformance.records.run import CellRecord, PartitionRecord
from report.compare import delegated_share
from report.model import Variant, variant_of
from report.plots import number

#: Operators shown of those that are left, and of those that were taken whole, before the others are folded away.
_SHOWN = 5
#: The metrics of LOW-1 that a partition says in full.
_TOLD = frozenset(("delegates", "delegated_operators", "undelegated_operators", "program_bytes", "lower_s", "emit_s"))


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar: what it is, as a style class and in words, and how much of it."""

    kind: str
    label: str
    value: int
    at: float
    width: float


@dataclass(frozen=True, slots=True)
class Bar:
    """Some parts in a row, on a scale that the bars beside it share."""

    label: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        """Of all its parts."""
        return sum(part.value for part in self.parts)


@dataclass(frozen=True, slots=True)
class Delegation:
    """What a backend took of one program, and what that came to.

    `by_backend`, `operators` and `memory` are empty for records that only counted. Operators come with those that are
    left first, since they are what a reader looks for.
    """

    variant: Variant
    delegates: int
    by_backend: tuple[tuple[str, int], ...]
    delegated: int
    left: int
    share: float | None
    operators: tuple[Bar, ...]
    memory: tuple[Bar, ...]
    facts: tuple[tuple[str, str], ...]

    @property
    def shown(self) -> tuple[Bar, ...]:
        """The operators to see at once: none, where nothing was delegated and one bar says it all."""
        left = [bar for bar in self.operators if bar.parts[-1].value]
        taken = [bar for bar in self.operators if not bar.parts[-1].value]
        return (*left[:_SHOWN], *taken[:_SHOWN]) if self.delegated else ()

    @property
    def folded(self) -> tuple[Bar, ...]:
        """The other operators."""
        shown = {bar.label for bar in self.shown}
        return tuple(bar for bar in self.operators if bar.label not in shown)


def delegations(cells: Iterable[CellRecord]) -> tuple[Delegation, ...]:
    """What each backend took, where it was counted; those that took anything first."""
    found = []
    for cell in cells:
        if cell.partition:
            found.append(_partitioned(cell, cell.partition))
        elif delegated_share(cell) is not None:
            found.append(_counted(cell, dict(cell.metrics or {})))
    return tuple(sorted(found, key=lambda each: not each.delegated))


def size(value: int) -> str:
    """A number of bytes for people: `712 bytes`, `96.5 KiB`, `1.2 MiB`."""
    if value < 1024:
        return f"{value} bytes"
    amount, unit = value / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}"


def _partitioned(cell: CellRecord, made: PartitionRecord) -> Delegation:
    others = [(name, number(value)) for name, value in (cell.metrics or {}).items() if name not in _TOLD]
    seconds = [("lowered in", f"{number(made.lower_s)} s"), ("emitted in", f"{number(made.emit_s)} s")]
    return Delegation(
        variant_of(cell),
        sum(made.delegates.values()),
        tuple(sorted(made.delegates.items(), key=lambda each: (-each[1], each[0]))),
        sum(made.delegated.values()),
        sum(made.undelegated.values()),
        delegated_share(cell),
        _operators(made.delegated, made.undelegated),
        _memory(made),
        (*seconds, *others),
    )


def _counted(cell: CellRecord, metrics: dict[str, float]) -> Delegation:
    taken, left = int(metrics.pop("delegated_operators")), int(metrics.pop("undelegated_operators"))
    delegates = int(metrics.pop("delegates", 0))
    others = tuple((name, number(value)) for name, value in metrics.items())
    return Delegation(variant_of(cell), delegates, (), taken, left, delegated_share(cell), (), (), others)


def _operators(delegated: Mapping[str, int], undelegated: Mapping[str, int]) -> tuple[Bar, ...]:
    names = sorted(
        {*delegated, *undelegated},
        key=lambda name: (-undelegated.get(name, 0), -delegated.get(name, 0), name),
    )
    return _bars(
        (name, (("taken", "delegated", delegated.get(name, 0)), ("left", "left", undelegated.get(name, 0))))
        for name in names
    )


def _memory(made: PartitionRecord) -> tuple[Bar, ...]:
    # A delegate may keep caches of its own, and constants may be counted twice: neither makes less than nothing.
    rest = max(0, made.program_bytes - made.constant_bytes)
    activations = max(0, made.planned_bytes - made.cache_bytes)
    return _bars(
        (
            (
                "program",
                (("constants", "constants", made.constant_bytes), ("code", "instructions and delegates", rest)),
            ),
            ("planned memory", (("caches", "caches", made.cache_bytes), ("activations", "activations", activations))),
        )
    )


def _bars(rows: Iterable[tuple[str, tuple[tuple[str, str, int], ...]]]) -> tuple[Bar, ...]:
    """Bars on one scale, the longest of which is whole."""
    kept = list(rows)
    longest = max((sum(value for *_, value in parts) for _, parts in kept), default=0) or 1

    def parts_of(parts: tuple[tuple[str, str, int], ...]) -> Iterable[Part]:
        begun = 0
        for kind, label, value in parts:
            yield Part(kind, label, value, round(100 * begun / longest, 2), round(100 * value / longest, 2))
            begun += value

    return tuple(Bar(label, tuple(parts_of(parts))) for label, parts in kept)
