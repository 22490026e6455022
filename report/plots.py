"""Plots as numbers: the position of each mark. Templates draw them, so that escaping is in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from conformance.records.run import CellRecord

from .analysis.variants import Variant, variant_of

#: SEN-1 asks for effects of at least this multiple of the tolerance.
SENSITIVE = 100.0
_WIDTH = 100.0


@dataclass(frozen=True, slots=True)
class Mark:
    """One measured value, and its position from 0 to 100. Zero is drawn at the left edge."""

    label: str
    value: float
    at: float
    fine: bool


@dataclass(frozen=True, slots=True)
class Line:
    """The marks of one line, and the worst of their values."""

    label: str
    marks: tuple[Mark, ...]
    worst: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A power of ten on the axis."""

    label: str
    at: float


@dataclass(frozen=True, slots=True)
class LogPlot:
    """Values on a logarithmic axis, against one limit."""

    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    limit: float
    limit_at: float


def errors(cells: Iterable[CellRecord], name: Callable[[Variant], str] = str) -> LogPlot | None:
    """The largest relative error of each cell and the tolerance, one line a variant; None if nothing was measured."""
    by_variant: dict[str, list[tuple[str, float]]] = {}
    tolerance = 0.0
    for cell in cells:
        metrics = cell.metrics or {}
        if "max_relative_error" in metrics and "tolerance" in metrics:
            by_variant.setdefault(name(variant_of(cell)), []).append((cell.clause, metrics["max_relative_error"]))
            tolerance = max(tolerance, metrics["tolerance"])
    return log_plot(by_variant, tolerance, at_most=True)


def sensitivity(cells: Iterable[CellRecord]) -> LogPlot | None:
    """The effect of each planted fault on the logits, as a multiple of the tolerance; None if nothing was measured."""
    by_fault: dict[str, list[tuple[str, float]]] = {}
    for cell in cells:
        for name, value in (cell.metrics or {}).items():
            if name.startswith("effect_"):
                fault = name.removeprefix("effect_").replace("_", " ")
                by_fault.setdefault(fault, []).append((cell.clause, value))
    return log_plot(by_fault, SENSITIVE, at_most=False)


def log_plot(values: Mapping[str, Sequence[tuple[str, float]]], limit: float, *, at_most: bool) -> LogPlot | None:
    """`values` on a logarithmic axis with `limit`, which is their maximum if `at_most`, or else their minimum."""
    if not values or limit <= 0:
        return None
    positive = [abs(value) for line in values.values() for _, value in line if value] + [limit]
    low = math.floor(math.log10(min(positive)) - 0.3)
    high = math.ceil(math.log10(max(positive)) + 0.3)

    def at(value: float) -> float:
        return round(_WIDTH * (math.log10(abs(value)) - low) / (high - low), 2) if value else 0.0

    def mark(label: str, value: float) -> Mark:
        return Mark(label, value, at(value), value <= limit if at_most else value >= limit)

    worst = max if at_most else min
    step = max(1, math.ceil((high - low) / 6))  # labels must not overlap on a phone
    return LogPlot(
        tuple(
            Line(label, tuple(mark(*each) for each in line), worst(value for _, value in line))
            for label, line in values.items()
        ),
        tuple(Tick(f"1e{power}", at(10.0**power)) for power in range(low + 1, high, step)),
        limit,
        at(limit),
    )


def number(value: float) -> str:
    """A measured number in few digits: `135`, `12.33`, `62488`, `5.7e-07`."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value)}"
    if 1000 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.2f}" if 0.01 <= abs(value) < 1000 else f"{value:.1e}"
