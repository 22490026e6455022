"""What a benchmark measures, as one side of a ratio: machines are noisy, and seconds by themselves say little."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: Keys of pytest-benchmark's `extra_info`, which it writes into its JSON.
PAIR, SIDE, BOUND, SIZES, TIMED = "pair", "side", "bound", "sizes", "timed"
OURS, BASE = "ours", "base"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Two measurements of one run, in seconds or bytes, and how large the quotient of the two may be."""

    name: str
    ours: float
    base: float
    bound: float

    @property
    def value(self) -> float:
        """How many times the base it is."""
        return self.ours / self.base

    @property
    def holds(self) -> bool:
        """Whether it is within its bound."""
        return self.value <= self.bound


def note(
    benchmark: Any, pair: str, side: str, bound: float, sizes: Mapping[str, int] | None = None, *, timed: bool = True
) -> None:
    """Say of a benchmark which side of which pair it is.

    Args:
        benchmark: pytest-benchmark's fixture.
        pair: What both sides do.
        side: `OURS` or `BASE`.
        bound: The most that ours may be, as a share of the base.
        sizes: Bytes that belong to it, by what they are the size of.
        timed: Whether its time says anything.
    """
    benchmark.extra_info.update({PAIR: pair, SIDE: side, BOUND: bound, SIZES: dict(sizes or {}), TIMED: timed})


def ratios(benchmarks: Iterable[Mapping[str, Any]]) -> list[Ratio]:
    """The ratios in what pytest-benchmark wrote; of times, the fastest round of each, which noise has disturbed least.

    Raises:
        ValueError: A pair lacks a side.
    """
    sides: dict[str, dict[str, dict[str, float]]] = {}
    bounds: dict[str, float] = {}
    for each in benchmarks:
        info = each["extra_info"]
        measured = {**({"seconds": each["stats"]["min"]} if info[TIMED] else {}), **info[SIZES]}
        sides.setdefault(info[PAIR], {})[info[SIDE]] = measured
        bounds[info[PAIR]] = info[BOUND]
    found = []
    for pair, both in sides.items():
        if both.keys() != {OURS, BASE}:
            raise ValueError(f"{pair}: measured {', '.join(both)} alone; a ratio needs {OURS} and {BASE}")
        for measure, ours in both[OURS].items():
            found.append(Ratio(f"{pair}, {measure}", ours, both[BASE][measure], bounds[pair]))
    return found
