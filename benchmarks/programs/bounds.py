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
        limit: Where it is not met, what stands in the way, and whose that is.
        applies: The rows that it is about.
    """

    name: str
    most: float
    quotients: Callable[[Row], list[tuple[str, float | None]]]
    limit: str
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


#: The figures of `limit` are of SmolLM2's shape in float32 with a cache of 1,024.
BOUNDS = (
    Bound(
        "decode, anywhere: reference / transformers",
        0.45,
        _anywhere(REFERENCE, TRANSFORMERS),
        "The model's size: with 4 layers, two thirds of the weights that a token reads are the vocabulary's, "
        "which both programs multiply by in the same way. Transformers' program takes 2.6 times the roofline "
        "there, and 4.3 times with 30 layers.",
        lambda row: row.cache >= 1024,
    ),
    Bound(
        "decode, anywhere: reference-custom / optimum",
        0.95,
        _anywhere(CUSTOM, OPTIMUM),
        "ExecuTorch's kernels: both programs call the same `llama::custom_sdpa` and `llama::update_cache`, and "
        "XNNPACK for the same products. Near the start both are within 20 % of the roofline. Near the end the "
        "operator takes two fifths of a token more, and the portable program is no slower.",
    ),
    Bound(
        "decode, near the start: reference / roofline",
        1.3,
        _against_roofline,
        "The contract: a portable program does not know how much of its cache is filled, and reads all of it at "
        "each token, 45 MiB beside 513 MiB of weights; and XNNPACK, which runs attention as products and a "
        "softmax, with each result in memory. Of DeepSeek-V3 it is Transformers' model, which makes keys and values of "
        "the whole cache anew at each token.",
        lambda row: row.dtype == "float32",
    ),
    Bound(
        "prompt: reference / better of transformers, optimum",
        1.0,
        _than_better(lambda side: side.prompt_s),
        "The contract, as above: 128 tokens attend to 1,024 slots, which is 302 million multiplications and "
        "additions a layer beside 906 for all else, where `llama::custom_sdpa` looks at the 128 slots that are "
        "filled and takes 38. That alone makes a ratio of 1.22 with 30 layers and 1.10 with 4. "
        '`attention="custom"` is for who needs it.',
        lambda row: row.mode == "dynamic",
    ),
    Bound(
        "planned memory: reference / better of both",
        1.0,
        _than_better(lambda side: side.planned_bytes),
        "The reference: a mask of the call's length by the cache's, once a call, which custom operators do without.",
    ),
    Bound(
        "program's size: reference / better of both",
        1.0,
        _than_better(lambda side: side.program_bytes),
        "The reference: some 10 kB of operators and metadata for runners. In bfloat16 it is XNNPACK, which keeps the "
        "weight of the output projection beside the embedding's. Of Transformers' program it takes no product, since "
        "nothing turns its bfloat16 on: that has the weight once, and needs 29 times as long for a token.",
    ),
    Bound(
        "export and lower: reference / transformers",
        0.7,
        lambda row: [("", _quotient(figure(row, REFERENCE, _making_s), figure(row, TRANSFORMERS, _making_s)))],
        "What does not grow with layers: imports at first use, and packing the vocabulary's weights, of which "
        "Transformers' program in bfloat16 packs none; in 8da4w, quantising these weights, which takes both as long.",
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
