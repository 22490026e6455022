"""docs/performance/programs.md and the tables in the terminal: the same results always give the same text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.programs.bounds import BOUNDS, Judged, judged
from benchmarks.programs.cases import BLOCK, CACHES, DTYPES, LIMITS, PROMPT, REFERENCE, SIDES, SLICE
from benchmarks.programs.results import Results, Row, SideResult, Timing, merged
from report.markdown import code, prose, table

_MIB = 1 << 20
#: How a bound is marked: met, not met, and not measured.
_MARKS = {True: "✓", False: "✗", None: "–"}


def _per_s(timing: Timing | None) -> float | None:
    return timing.per_s if timing else None


def _mib(size: int | None) -> float | None:
    return None if size is None else size / _MIB


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a side: its name, what it means, and the figure, None where there is none."""

    name: str
    meaning: str
    figure: Callable[[SideResult], float | None]


COLUMNS = (
    Column(
        "start",
        "tokens a second near the beginning of the cache, one token a call, from the median call at positions 0 to "
        f"{BLOCK - 1}",
        lambda side: _per_s(side.start),
    ),
    Column(
        "end",
        f"likewise at the last {BLOCK} positions of a cache that one text has filled",
        lambda side: _per_s(side.end),
    ),
    Column(
        "prompt",
        f"tokens a second of a prompt of {PROMPT} tokens ({CACHES[0] - 1} in a cache of {CACHES[0]}) from position 0 "
        "in one call; of programs with a dynamic length only",
        lambda side: _per_s(side.prompt),
    ),
    Column("program", "MiB of the `.pte` file", lambda side: _mib(side.program_bytes)),
    Column(
        "planned",
        "MiB that the runtime sets aside for caches and activations. Every side returns the logits of all tokens of a "
        "call, so with a dynamic length most of it is room for logits",
        lambda side: _mib(side.planned_bytes),
    ),
    Column(
        "peak",
        "MiB that became resident in a process of its own when it loaded the program and called it once, with a prompt "
        "where it takes one",
        lambda side: _mib(side.peak_bytes),
    ),
    Column(
        "export",
        "seconds to export, lower and emit, in a process of its own, without building and quantising the model",
        lambda side: side.making_s,
    ),
    Column(
        "peak there",
        "MiB that were resident in that process at most",
        lambda side: _mib(side.making_peak_bytes),
    ),
)
#: The last column, which has no ratio.
_ERROR = (
    "root mean square of the differences of all logits from those of eager Transformers without a cache, quantised as "
    "the side does, over the root mean square of those. Above "
    f"{', '.join(f'{limit:g} in {dtype}' for dtype, limit in LIMITS.items())} a side's "
    "figures are void"
)


def performance_page(several: Sequence[Results]) -> str:
    """The page as `docs/performance/programs.md`.

    Raises:
        ValueError: There are no rows.
    """
    rows = _sorted(merged(several))
    if not rows:
        raise ValueError("a page needs at least one row")
    lines = [
        "# Performance",
        "",
        "How fast the reference's programs are on shapes of real models, beside what people ship. Printed by "
        "`python -m benchmarks --publish RESULTS.json ...` from the records in `docs/records/performance`; do not edit "
        "it. [Where the suite's own time goes](suite.md) is another page.",
        *("", "## How to measure", "", *_how()),
        *("", "## What was measured with", "", *_environments(several)),
        *("", "## Sides", "", *(f"- {code(side.name)}: {side.summary}." for side in SIDES.values())),
        "",
        "The roofline is the time in which one core reads, once, every weight that a token needs and what eager "
        "Transformers has cached for it, at the bandwidth that was measured in the same process: the largest of "
        "several sums over 512 MiB.",
        *("", "## Columns", "", *(f"- {column.name}: {column.meaning}." for column in COLUMNS), f"- error: {_ERROR}."),
        "",
        "All seconds are CPU time of one thread, so a busy machine changes them little. In parentheses is the ratio to "
        "the reference's figure: above 1, a side is faster, larger or slower to make.",
        *("", "## Bounds", "", *_bounds(rows)),
    ]
    for shape in dict.fromkeys(row.shape for row in rows):
        lines += ["", f"## {shape}", "", *_figures([row for row in rows if row.shape == shape])]
    return "\n".join(lines) + "\n"


def bound_table(rows: Iterable[Row]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: what each bound says of each row."""
    body = [
        [
            _MARKS[each.met],
            each.bound.name,
            _case(each.row),
            _ratio(each),
            f"{each.bound.most:g}",
            each.part,
        ]
        for row in rows
        for each in sorted(judged(row), key=lambda each: BOUNDS.index(each.bound))
    ]
    return ["", "bound", "case", "ratio", "at most", "of"], body


def figure_table(row: Row) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: what was measured of each side of a row."""
    ours = row.sides.get(REFERENCE.name, SideResult())
    roofline = ["roofline", _rate(1 / row.start_roofline_s), _rate(1 / row.end_roofline_s)]
    body = [_cells(name, row.sides[name], ours) for name in SIDES if name in row.sides]
    return ["side", *(column.name for column in COLUMNS), "error"], [*body, [*roofline, *[""] * (len(COLUMNS) - 1)]]


def absences(row: Row) -> Iterator[tuple[str, str]]:
    """Sides with something missing, and why."""
    for name, result in row.sides.items():
        if result.absent:
            yield name, result.absent


def all_met(rows: Iterable[Row]) -> bool:
    """Whether no bound was measured and does not hold."""
    return all(each.met is not False for row in rows for each in judged(row))


def _sorted(rows: Iterable[Row]) -> list[Row]:
    shapes = list(dict.fromkeys(row.shape for row in rows))
    return sorted(rows, key=lambda row: (shapes.index(row.shape), DTYPES.index(row.dtype), row.cache, row.mode))


def _how() -> list[str]:
    return [
        "```text",
        "tox -e benchmarks -- benchmarks/programs                   # the slice, float32, cache 1,024: ten minutes",
        "tox -e benchmarks -- benchmarks/programs --full            # all of this page: hours, the first time",
        "tox -e benchmarks -- benchmarks/programs --shapes smollm2 --dtypes bfloat16 --caches 1024,2048",
        "tox -e optimum -- --version                                # installs optimum-executorch, for its side",
        "```",
        "",
        "Each program is made in a process of its own, with one thread, and kept in `build/benchmarks/programs` by "
        "what it is made of: the shape, the recipe, the packages, and the reference's code. One process then loads the "
        "programs of a row, compares their logits with those of eager Transformers over a text that fills the cache, "
        "and calls them in turns, a block each. Models are made from their config with weights that depend on their "
        f"names only; `-{SLICE}` is a model's last {SLICE} layers. Caches of "
        f"{', '.join(f'{cache:,}' for cache in CACHES)} tokens, mode `decode` with one token a call and `dynamic` with "
        "any number.",
    ]


def _environments(several: Sequence[Results]) -> list[str]:
    body = []
    for each in several:
        made = [side.made for row in each.rows for side in row.sides.values() if side.made]
        versions: dict[str, set[str]] = {}
        for packages in (each.packages, *(one.packages for one in made)):
            for name, version in packages.items():
                versions.setdefault(name, set()).add(version)
        days = sorted({row.started[:10] for row in each.rows})
        shown = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in sorted(versions.items()))
        body.append([", ".join(days), prose(each.cpu), prose(shown), code((each.commit or "unknown")[:12])])
    return table(["date", "processor", "packages", "commit"], body)


def _bounds(rows: Sequence[Row]) -> list[str]:
    """One line a case, one column a bound."""
    found: dict[tuple[str, str, int, str], dict[str, Judged]] = {
        row.key: {each.bound.name: each for each in judged(row)} for row in rows
    }
    names = [bound.name for bound in BOUNDS if any(bound.name in each for each in found.values())]
    heads = ["case", *(f"{bound.name} ≤ {bound.most:g}" for bound in BOUNDS if bound.name in names)]
    body = [[_case(row), *(_verdict(found[row.key].get(name)) for name in names)] for row in rows]
    judgements = [each for of_row in found.values() for each in of_row.values()]
    missed = [bound for bound in BOUNDS if any(each.bound is bound and each.met is False for each in judgements)]
    verdicts = [each.met for each in judgements]
    return [
        f"{verdicts.count(True)} met (✓), {verdicts.count(False)} not met (✗), {verdicts.count(None)} not measured. A "
        "ratio is of seconds or bytes, so less is better; of several, it is the largest, and the word behind it says "
        "which, or what it is measured against.",
        "",
        *table(heads, body),
        *(["", "What stands in the way of those that are not met:", ""] if missed else []),
        *(f"- {bound.name}: {bound.limit}" for bound in missed),
    ]


def _verdict(each: Judged | None) -> str:
    if each is None:
        return ""
    return " ".join(filter(None, (_MARKS[each.met], _ratio(each), each.part)))


def _ratio(each: Judged) -> str:
    if each.value is None:
        return "not measured"
    short = f"{each.value:.2f}"
    return f"{each.value:.5f}" if float(short) <= each.bound.most < each.value else short


def _figures(rows: Sequence[Row]) -> Iterator[str]:
    for number, row in enumerate(rows):
        heads, body = figure_table(row)
        yield from ([""] if number else [])
        yield from (f"### {_case(row)}", "", *table(heads, body))
        missing = [f"- {code(name)}: {prose(why)}" for name, why in absences(row)]
        yield from ["", *missing] if missing else []


def _cells(name: str, result: SideResult, ours: SideResult) -> list[str]:
    """`12.3 (0.87)` in each column: the figure, and its ratio to the reference's."""
    error = "–" if result.error is None else f"{result.error:.1g}"
    if result.void:
        return [name, *["void"] * len(COLUMNS), error]
    cells = []
    for column in COLUMNS:
        value, base = column.figure(result), None if ours is result else column.figure(ours)
        cells.append("–" if value is None else _rate(value) + (f" ({value / base:.2f})" if base else ""))
    return [name, *cells, error]


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _case(row: Row) -> str:
    return f"{row.shape}, {row.dtype}, cache {row.cache:,}, {row.mode}"
