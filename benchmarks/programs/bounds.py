"""How fast, small and quick to make the reference's programs have to be, as ratios within one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.programs.cases import CUSTOM, OPTIMUM, REFERENCE, TRANSFORMERS, Side
from benchmarks.programs.results import Row, SideResult

#: What a side's figure is, None where there is none.
_Figure = Callable[[SideResult], float | None]


@dataclass(frozen=True, slots=True)
class Bound:
    """One requirement.

    Args:
        name: What is divided by what.
        most: The most that the quotient may be.
        quotients: The quotients in a row, by what each is of, None for one that lacks a side.
        applies: The rows that it is about.
    """

    name: str
    most: float
    quotients: Callable[[Row], list[tuple[str, float | None]]]
    applies: Callable[[Row], bool] = lambda row: True


@dataclass(frozen=True, slots=True)
class Judged:
    """What a bound says of a row: its largest quotient; None where nothing was measured.

    `part` says what of a row it was of, or what it is measured against, where there are several.
    """

    bound: Bound
    row: Row
    value: float | None
    part: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it holds; None where it was not measured."""
        return None if self.value is None else self.value <= self.bound.most


def _making_s(side: SideResult) -> float | None:
    return side.making_s


#: A token near the beginning of the cache and one near its end.
_PARTS: tuple[tuple[str, _Figure], ...] = (
    ("start", lambda side: side.start_s),
    ("end", lambda side: side.end_s),
)


def figure(row: Row, side: Side, of: _Figure) -> float | None:
    """The side's figure; None where it has none, or its logits are wrong."""
    result = row.sides.get(side.name)
    return None if result is None or result.void else of(result)


def _anywhere(ours: Side, base: Side) -> Callable[[Row], list[tuple[str, float | None]]]:
    """A token near the beginning of the cache and one near its end."""
    return lambda row: [(part, _quotient(figure(row, ours, of), figure(row, base, of))) for part, of in _PARTS]


def _than_better(of: _Figure) -> Callable[[Row], list[tuple[str, float | None]]]:
    """The reference against the better of the two others, or the one of them that was measured."""

    def quotients(row: Row) -> list[tuple[str, float | None]]:
        bases = {side.name: value for side in (TRANSFORMERS, OPTIMUM) if (value := figure(row, side, of)) is not None}
        best = min(bases, key=lambda name: bases[name], default="")
        return [(best, _quotient(figure(row, REFERENCE, of), bases.get(best)))]

    return quotients


def _against_roofline(row: Row) -> list[tuple[str, float | None]]:
    return [("", _quotient(figure(row, REFERENCE, lambda side: side.start_s), row.start_roofline_s))]


def _quotient(ours: float | None, base: float | None) -> float | None:
    return ours / base if ours is not None and base else None


BOUNDS = (
    Bound(
        "decode, anywhere: reference / transformers",
        0.45,
        _anywhere(REFERENCE, TRANSFORMERS),
        lambda row: row.cache >= 1024,
    ),
    Bound("decode, anywhere: reference-custom / optimum", 0.95, _anywhere(CUSTOM, OPTIMUM)),
    Bound("decode, near the start: reference / roofline", 1.3, _against_roofline, lambda row: row.dtype == "float32"),
    Bound(
        "prompt: reference / better of transformers, optimum",
        1.0,
        _than_better(lambda side: side.prompt_s),
        lambda row: row.mode == "dynamic",
    ),
    Bound("planned memory: reference / better of both", 1.0, _than_better(lambda side: side.planned_bytes)),
    Bound("program's size: reference / better of both", 1.0, _than_better(lambda side: side.program_bytes)),
    Bound(
        "export and lower: reference / transformers",
        0.7,
        lambda row: [("", _quotient(figure(row, REFERENCE, _making_s), figure(row, TRANSFORMERS, _making_s)))],
    ),
)


def judged(row: Row) -> Iterator[Judged]:
    """What each bound that applies says of a row."""
    for bound in BOUNDS:
        if bound.applies(row):
            yield _judge(bound, row)


def _judge(bound: Bound, row: Row) -> Judged:
    quotients = bound.quotients(row)
    found = [(value, part) for part, value in quotients if value is not None]
    if len(found) < len(quotients):
        return Judged(bound, row, None)
    value, part = max(found)
    return Judged(bound, row, value, part)
