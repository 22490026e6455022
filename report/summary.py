"""A run in Markdown, for a pull request or a job summary: regressions first, and a limited number of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TypeVar

from conformance.core.text import first_few, plural
from conformance.records.run import CellRecord, RunRecord

from .addresses import architecture_page
from .analysis import Report, analyse
from .analysis.causes import Cause, Unrun
from .analysis.clauses import clause_ranges
from .analysis.compare import Change, Comparison, DifferenceGroup, Measured, grouped
from .analysis.history import PACKAGES
from .analysis.result import result_of
from .analysis.variants import variant_of
from .analysis.verdicts import GLYPHS, Outcome, count
from .loading import when
from .markdown import code, headlines, not_judged, page_link, prose, table
from .names import commit
from .views import targets

#: Rows of a table before "and N more".
ROWS = 10

#: Names in a cell of a table before "and N more".
_NAMED = 6

_T = TypeVar("_T", bound=Cause | DifferenceGroup | Measured | Unrun)


def summary(head: RunRecord, comparison: Comparison | None = None, rows: int = ROWS, site: str = "") -> str:
    """The summary of a run as Markdown.

    Args:
        head: The run.
        comparison: What it changed, if it is compared with a base.
        rows: Rows of a table before "and N more".
        site: The address of the site of this run, to which architectures and failures are linked; may be empty.
    """
    report = analyse([head], base=comparison.base if comparison else None)
    pages = Pages.of(report, site)
    lines = [f"## {headline(head, comparison)}", *_warnings(head, comparison)]
    lines += ["", page_link("All results", site, "index.html")] if site else []
    lines += ["", *_sides(head, comparison)]
    lines += ["", *headlines(report.headlines)] if report.headlines else []
    if comparison:
        lines += _regressions(comparison, rows, pages)
    regressions = {difference.cell.id for difference in comparison.regressions} if comparison else set()
    title = "Other unexpected failures" if regressions else "Unexpected failures"
    lines += _section(
        title, unexpected(report, regressions), lambda cause: _failure(cause, pages), _FAILURE_HEADS, rows
    )
    lines += _section("Not run", report.unrun, _unrun, _UNRUN_HEADS, rows)
    if comparison:
        for change in Change:
            others = grouped(difference for difference in comparison.of(change) if not difference.regression)
            title = change.value.capitalize()
            lines += _section(title, others, lambda group: _difference(group, pages), _DIFFERENCE_HEADS, rows)
    return "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True, slots=True)
class Pages:
    """The pages of the site of a run: its address, which may be empty, and by cell or architecture those in it."""

    site: str
    by_cell: Mapping[str, str]
    by_architecture: Mapping[str, str]

    @classmethod
    def of(cls, report: Report, site: str) -> Pages:
        """The pages of `report`; none, without an address."""
        names = {each.name: architecture_page(each.name) for each in report.architectures} if site else {}
        return cls(site, targets(report) if site else {}, names)

    def explaining(self, cells: Sequence[CellRecord]) -> str:
        """The address within the site of what explains the first of `cells`; empty if the site has nothing of it."""
        return self.by_cell.get(cells[0].id) or self.by_architecture.get(cells[0].architecture, "")


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
        return not_judged(head, "This run")
    return [*not_judged(comparison.base, "The base run"), *not_judged(head, "The head run")]


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


def _regressions(comparison: Comparison, rows: int, pages: Pages) -> list[str]:
    """Everything that fails the gate."""
    groups = grouped(comparison.regressions)
    lines = _section("Regressions", groups, lambda group: _difference(group, pages), _DIFFERENCE_HEADS, rows)
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


def _difference(group: DifferenceGroup, pages: Pages) -> Sequence[str]:
    name = page_link(code(group.architecture), pages.site, pages.explaining(group.cells))
    return (
        *(name, code(str(group.variant)), group.change.value),
        *(_state(group.before), _state(group.after)),
        *(code(group.signature) if group.signature else "", _clauses(group.clauses)),
    )


def _failure(cause: Cause, pages: Pages) -> Sequence[str]:
    clauses = clause_ranges(cell.clause for cell in cause.cells)
    return (
        page_link(prose(cause.title), pages.site, cause.page),
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
    return first_few([*map(code, clause_ranges(clauses))], _NAMED)
