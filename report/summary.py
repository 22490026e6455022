"""A run in Markdown, for a pull request or a job summary: regressions first, and a limited number of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from conformance.core.text import first_few, plural
from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.records.run import CellRecord, RunRecord

from .compare import Change, Comparison, Measured
from .grouping import CellGroup, DifferenceGroup, grouped, grouped_cells, unrun
from .loading import when
from .markdown import code, incomplete, table
from .model import GLYPHS, Status, count, variant_of
from .names import commit
from .timeline import PACKAGES

#: Rows of a table before "and N more".
ROWS = 10

_T = TypeVar("_T")


def summary(head: RunRecord, comparison: Comparison | None = None, rows: int = ROWS) -> str:
    """The summary of `head`, against the base of `comparison` if there is one."""
    lines = [f"## {headline(head, comparison)}", *_warnings(head, comparison), "", *_sides(head, comparison)]
    if comparison:
        lines += _regressions(comparison, rows)
    regressions = {difference.cell.id for difference in comparison.regressions} if comparison else set()
    unexpected = [cell for cell in head.cells if cell.verdict not in _SHOWN_ELSEWHERE and cell.id not in regressions]
    title = "Other unexpected failures" if regressions else "Unexpected failures"
    lines += _section(title, grouped_cells(unexpected), _failure, _FAILURE_HEADS, rows)
    missed = unrun(head.cells)
    lines += _section("Not run", missed, _unrun, _UNRUN_HEADS, rows, sum(len(cells) for _, cells in missed))
    if comparison:
        for change in Change:
            others = grouped(difference for difference in comparison.of(change) if not difference.regression)
            lines += _section(change.value.capitalize(), others, _difference, _DIFFERENCE_HEADS, rows)
    return "\n".join(lines) + "\n"


def acceptable(run: RunRecord) -> bool:
    """Whether a run by itself is good: it is complete, judged at least one cell, and has no unexpected result."""
    judged = any(cell.verdict in {Verdict.PASS, Verdict.EXPECTED_FAILURE} for cell in run.cells)
    return run.run.complete and judged and all(cell.verdict in ACCEPTABLE for cell in run.cells)


def headline(head: RunRecord, comparison: Comparison | None) -> str:
    """The overall result in one line; a run that is not complete never looks like a good one."""
    unexpected = sum(cell.verdict not in ACCEPTABLE for cell in head.cells)
    worse = _worse(comparison) if comparison else 0
    if worse:
        result, good = plural(worse, "regression"), False
    elif unexpected:
        result, good = plural(unexpected, "unexpected result"), False
    elif not any(cell.verdict in {Verdict.PASS, Verdict.EXPECTED_FAILURE} for cell in head.cells):
        result, good = "nothing was judged", False
    else:
        known = sum(cell.verdict is Verdict.EXPECTED_FAILURE for cell in head.cells)
        result, good = "no unexpected results" + (f" ({plural(known, 'known failure')})" if known else ""), True
    if comparison and not worse:
        result = f"no regressions, {result}"
    if not head.run.complete:
        result, good = f"{result}; the run is not complete", False
    return f"{'✓' if good else '✗'} ExecuTorch conformance: {result}"


def _worse(comparison: Comparison) -> int:
    return len(comparison.regressions) + len(comparison.slower) + len(comparison.less_delegated)


def _warnings(head: RunRecord, comparison: Comparison | None) -> list[str]:
    if not comparison:
        return incomplete(head, "This run")
    return [*incomplete(comparison.base, "The base run"), *incomplete(head, "The head run")]


def _sides(head: RunRecord, comparison: Comparison | None) -> list[str]:
    """What was run, side by side; differing versions are bold."""
    runs = [comparison.base, head] if comparison else [head]
    heads = ["", "base", "head"] if comparison else ["", "this run"]
    names = [name for name in PACKAGES if any(name in run.environment.packages for run in runs)]
    others = sorted({name for run in runs for name in run.environment.packages} - set(names))
    names += [name for name in others if len({run.environment.packages.get(name) for run in runs}) > 1]
    commits = [str(commit(run.run.commit) or "") for run in runs]
    rows = [
        ["run", *(code(run.run.id) for run in runs)],
        *([["commit", *map(code, commits)]] if any(commits) else []),
        ["started", *(f"{when(run.run.started):%Y-%m-%d %H:%M} UTC" for run in runs)],
    ]
    for name in names:
        versions = [run.environment.packages.get(name) for run in runs]
        form = "**{}**" if len(set(versions)) > 1 else "{}"
        rows.append([code(name), *(form.format(code(version) if version else "–") for version in versions)])
    counts = [
        ", ".join(f"{GLYPHS[verdict]} {number} {verdict}" for verdict, number in count(run.cells)) or "none"
        for run in runs
    ]
    return table(heads, [*rows, ["cells", *counts]])


def _regressions(comparison: Comparison, rows: int) -> list[str]:
    """Everything that fails the gate."""
    groups = grouped(comparison.regressions)
    lines = _section("Regressions", groups, _difference, _DIFFERENCE_HEADS, rows)
    replay = next((cell.replay for group in groups for cell in group.cells if cell.replay), None)
    lines += ["", f"To reproduce the first: {code(replay, max_chars=500)}"] if replay else []
    lines += _section(
        "Slower to lower", comparison.slower, lambda each: _measured(each, 1, " s"), _MEASURED_HEADS, rows
    )
    heads = _MEASURED_HEADS
    return lines + _section(
        "Less delegated", comparison.less_delegated, lambda each: _measured(each, 100, " %"), heads, rows
    )


#: The verdicts that are not in the tables of failures. Cells that were not run have one of their own, by reason: a
#: missing package would fill the others.
_SHOWN_ELSEWHERE = ACCEPTABLE | {Verdict.NOT_RUN}
_UNRUN_HEADS = ("reason", "cells", "architectures", "variants")
_DIFFERENCE_HEADS = ("architecture", "variant", "change", "was", "is", "signature", "clauses")
_FAILURE_HEADS = ("architecture", "variant", "is", "signature or message", "clauses")
_MEASURED_HEADS = ("architecture", "variant", "was", "is")


def _section(
    title: str,
    items: Sequence[_T],
    row: Callable[[_T], Sequence[str]],
    heads: Sequence[str],
    max_rows: int,
    cells: int | None = None,
) -> list[str]:
    """A table of the first `max_rows` items; `cells` is the number of their cells, if they are not groups of cells."""
    if not items:
        return []
    more = [f"… and {len(items) - max_rows} more."] if len(items) > max_rows else []
    cells = cells or sum(len(each.cells) if isinstance(each, DifferenceGroup | CellGroup) else 1 for each in items)
    return [
        *("", f"### {title}: {plural(cells, 'cell')}", ""),
        *table(heads, map(row, items[:max_rows])),
        *(["", *more] if more else []),
    ]


def _difference(group: DifferenceGroup) -> Sequence[str]:
    return (
        *(code(group.architecture), code(str(group.variant)), group.change.value),
        *(_state(group.before), _state(group.after)),
        *(code(group.signature) if group.signature else "", _clauses(group.clauses)),
    )


def _failure(group: CellGroup) -> Sequence[str]:
    error = group.signature or next(iter((group.cells[0].message or "").splitlines()), "")
    return (
        code(group.architecture),
        code(str(group.variant)),
        _state(group.status),
        code(error) if error.strip() else "",
        _clauses(group.clauses),
    )


def _unrun(missed: tuple[str, Sequence[CellRecord]]) -> Sequence[str]:
    reason, cells = missed
    architectures = {cell.architecture for cell in cells}
    variants = [code(name) for name in sorted({str(variant_of(cell)) for cell in cells})]
    return code(reason, max_chars=300), str(len(cells)), str(len(architectures)), first_few(variants, 6)


def _measured(each: Measured, factor: float, unit: str) -> Sequence[str]:
    before, after = (f"{number * factor:.3g}{unit}" for number in (each.base, each.head))
    if each.operators:
        after += f"; no longer delegated: {first_few([*map(code, each.operators)], 4)}"
    return code(each.architecture), code(str(each.variant)), before, after


def _state(status: Status) -> str:
    return f"{status.glyph} {status.label}"


def _clauses(clauses: Iterable[str]) -> str:
    return ", ".join(map(code, clauses))
