"""A run in Markdown, for a pull request or a job summary: regressions first, and a limited number of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TypeVar

from conformance.core.text import first_few, plural
from conformance.records.run import RunRecord

from .analysis import Report, analyse
from .analysis.causes import Cause, Unrun
from .analysis.compare import Change, Comparison, DifferenceGroup, Measured, grouped
from .analysis.history import PACKAGES
from .analysis.result import result_of
from .analysis.status import clause_order
from .analysis.variants import variant_of
from .analysis.verdicts import GLYPHS, Outcome, count
from .loading import when
from .markdown import code, headlines, incomplete, prose, table
from .names import commit

#: Rows of a table before "and N more".
ROWS = 10

#: Names in a cell of a table before "and N more".
_NAMED = 6

_T = TypeVar("_T", bound=Cause | DifferenceGroup | Measured | Unrun)


def summary(head: RunRecord, comparison: Comparison | None = None, rows: int = ROWS) -> str:
    """The summary of `head`, against the base of `comparison` if there is one."""
    report = analyse([head])
    lines = [f"## {headline(head, comparison)}", *_warnings(head, comparison), "", *_sides(head, comparison)]
    lines += ["", *headlines(report.headlines)] if report.headlines else []
    if comparison:
        lines += _regressions(comparison, rows)
    regressions = {difference.cell.id for difference in comparison.regressions} if comparison else set()
    title = "Other unexpected failures" if regressions else "Unexpected failures"
    lines += _section(title, unexpected(report, regressions), _failure, _FAILURE_HEADS, rows)
    lines += _section("Not run", report.unrun, _unrun, _UNRUN_HEADS, rows)
    if comparison:
        for change in Change:
            others = grouped(difference for difference in comparison.of(change) if not difference.regression)
            lines += _section(change.value.capitalize(), others, _difference, _DIFFERENCE_HEADS, rows)
    return "\n".join(lines) + "\n"


def unexpected(report: Report, regressions: Container[str]) -> tuple[Cause, ...]:
    """The failures that the matrix does not list, without the cells that are shown as regressions."""
    left = (
        dataclasses.replace(cause, cells=tuple(cell for cell in cause.cells if cell.id not in regressions))
        for cause in report.causes
        if not cause.known
    )
    return tuple(cause for cause in left if cause.cells)


def headline(head: RunRecord, comparison: Comparison | None) -> str:
    """The overall result in one line; a run that is not complete never looks like a good one."""
    result = result_of(head, comparison)
    return f"{result.glyph} ExecuTorch conformance: {result.text}"


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


_UNRUN_HEADS = ("reason", "cells", "architectures", "variants")
_DIFFERENCE_HEADS = ("architecture", "variant", "change", "was", "is", "signature", "clauses")
_FAILURE_HEADS = ("cause", "is", "cells", "architectures", "variants", "clauses")
_MEASURED_HEADS = ("architecture", "variant", "was", "is")


def _section(
    title: str,
    items: Sequence[_T],
    row: Callable[[_T], Sequence[str]],
    heads: Sequence[str],
    max_rows: int,
) -> list[str]:
    """A table of the first `max_rows` items."""
    if not items:
        return []
    more = ["", f"… and {len(items) - max_rows} more."] if len(items) > max_rows else []
    number = sum(1 if isinstance(each, Measured) else len(each.cells) for each in items)
    heading = f"### {title}: {plural(number, 'cell')}"
    return ["", heading, "", *table(heads, map(row, items[:max_rows])), *more]


def _difference(group: DifferenceGroup) -> Sequence[str]:
    return (
        *(code(group.architecture), code(str(group.variant)), group.change.value),
        *(_state(group.before), _state(group.after)),
        *(code(group.signature) if group.signature else "", _clauses(group.clauses)),
    )


def _failure(cause: Cause) -> Sequence[str]:
    clauses = sorted({cell.clause for cell in cause.cells}, key=clause_order)
    return (
        prose(cause.title),
        _state(cause.outcome),
        str(len(cause.cells)),
        first_few([*map(code, cause.architectures)], _NAMED),
        first_few([code(str(variant)) for variant in cause.variants], _NAMED),
        first_few([*map(code, clauses)], _NAMED),
    )


def _unrun(group: Unrun) -> Sequence[str]:
    architectures = {cell.architecture for cell in group.cells}
    variants = [code(name) for name in sorted({str(variant_of(cell)) for cell in group.cells})]
    reason = code(group.reason, max_chars=300)
    return reason, str(len(group.cells)), str(len(architectures)), first_few(variants, _NAMED)


def _measured(each: Measured, factor: float, unit: str) -> Sequence[str]:
    before, after = (f"{number * factor:.3g}{unit}" for number in (each.base, each.head))
    if each.operators:
        after += f"; no longer delegated: {first_few([*map(code, each.operators)], 4)}"
    return code(each.architecture), code(str(each.variant)), before, after


def _state(outcome: Outcome) -> str:
    return f"{outcome.glyph} {outcome.label}"


def _clauses(clauses: Iterable[str]) -> str:
    return ", ".join(map(code, clauses))
