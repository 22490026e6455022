"""A run in Markdown, for a pull request or a job summary: what got worse first, and only as much as anybody reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.records.run import CellRecord, RunRecord
from report.compare import Change, Comparison, Measured
from report.grouping import CellGroup, DifferenceGroup, grouped, grouped_cells, unrun
from report.loading import when
from report.markdown import code, table
from report.model import GLYPHS, Standing, count, variant_of
from report.names import commit
from report.text import plural
from report.timeline import PACKAGES

#: Rows of a table before "and N more".
ROWS = 10

_T = TypeVar("_T")


def summary(head: RunRecord, comparison: Comparison | None = None, rows: int = ROWS) -> str:
    """The summary of `head`, against the base of `comparison` if there is one."""
    lines = [f"## {headline(head, comparison)}", *_warnings(head, comparison), "", *_sides(head, comparison)]
    if comparison:
        lines += _regressions(comparison, rows)
    old = {each.cell.id for each in comparison.regressions} if comparison else set()
    unlisted = [cell for cell in head.cells if cell.verdict not in _TOLD_APART and cell.id not in old]
    title = "Other failures that nobody listed" if old else "Failures that nobody listed"
    lines += _section(title, grouped_cells(unlisted), _failure, _FAILURE_HEADS, rows)
    missed = unrun(head.cells)
    lines += _section("Not run", missed, _unrun, _UNRUN_HEADS, rows, sum(len(cells) for _, cells in missed))
    if comparison:
        for change in Change:
            found = grouped(each for each in comparison.of(change) if not each.regression)
            lines += _section(change.value.capitalize(), found, _difference, _DIFFERENCE_HEADS, rows)
    return "\n".join(lines) + "\n"


def acceptable(run: RunRecord) -> bool:
    """Whether a run by itself is good: all of it was judged, something was, and every verdict is acceptable."""
    told = any(cell.verdict in {Verdict.PASS, Verdict.EXPECTED_FAILURE} for cell in run.cells)
    return run.run.complete and told and all(cell.verdict in ACCEPTABLE for cell in run.cells)


def headline(head: RunRecord, comparison: Comparison | None) -> str:
    """What it comes to, in a few words; a run that is not whole never looks like a good one."""
    unlisted = sum(cell.verdict not in ACCEPTABLE for cell in head.cells)
    worse = _worse(comparison) if comparison else 0
    if worse:
        told, fine = plural(worse, "regression"), False
    elif unlisted:
        told, fine = f"{plural(unlisted, 'cell')} not as listed", False
    elif not any(cell.verdict in {Verdict.PASS, Verdict.EXPECTED_FAILURE} for cell in head.cells):
        told, fine = "nothing was judged", False
    else:
        known = sum(cell.verdict is Verdict.EXPECTED_FAILURE for cell in head.cells)
        told, fine = "all as it should be" + (f", with {plural(known, 'known failure')}" if known else ""), True
    if comparison and not worse:
        told = f"no regressions, {told}"
    if not head.run.complete:
        told, fine = f"{told}, of a run that is not complete", False
    return f"{'✓' if fine else '✗'} ExecuTorch conformance: {told}"


def _worse(comparison: Comparison) -> int:
    return len(comparison.regressions) + len(comparison.slower) + len(comparison.less_delegated)


def _warnings(head: RunRecord, comparison: Comparison | None) -> list[str]:
    lines: list[str] = []
    for word, run in (("base", comparison.base if comparison else None), ("head", head)):
        if run and not run.run.complete:
            who = f"The {word} run" if comparison else "This run"
            missed = sum(cell.verdict is Verdict.NOT_RUN for cell in run.cells)
            lines += [
                *("", "> [!WARNING]"),
                f"> **{who} is not complete:** {plural(missed, 'cell')} of its record had not been run, and others may "
                "be missing altogether. Do not read what is absent as good.",
            ]
    return lines


def _sides(head: RunRecord, comparison: Comparison | None) -> list[str]:
    """What was run, side by side: versions that differ are the point."""
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
        found = [run.environment.packages.get(name) for run in runs]
        marked = "**{}**" if len(set(found)) > 1 else "{}"
        rows.append([code(name), *(marked.format(code(version) if version else "–") for version in found)])
    told = [
        ", ".join(f"{GLYPHS[verdict]} {number} {verdict}" for verdict, number in count(run.cells)) or "none"
        for run in runs
    ]
    return table(heads, [*rows, ["cells", *told]])


def _regressions(comparison: Comparison, rows: int) -> list[str]:
    """Everything that a gate would not let pass."""
    found = grouped(comparison.regressions)
    lines = _section("Regressions", found, _difference, _DIFFERENCE_HEADS, rows)
    replay = next((cell.replay for group in found for cell in group.cells if cell.replay), None)
    lines += ["", f"To see the first of them: {code(replay, most=500)}"] if replay else []
    lines += _section(
        "Slower to lower", comparison.slower, lambda each: _measured(each, 1, " s"), _MEASURED_HEADS, rows
    )
    heads = _MEASURED_HEADS
    return lines + _section(
        "Less delegated", comparison.less_delegated, lambda each: _measured(each, 100, " %"), heads, rows
    )


#: What is no failure, or is told by its reason: a package that is missing would fill a table of failures.
_TOLD_APART = ACCEPTABLE | {Verdict.NOT_RUN}
_UNRUN_HEADS = ("why", "cells", "architectures", "variants")
_DIFFERENCE_HEADS = ("architecture", "variant", "change", "was", "is", "signature", "clauses")
_FAILURE_HEADS = ("architecture", "variant", "is", "signature or message", "clauses")
_MEASURED_HEADS = ("architecture", "variant", "was", "is")


def _section(
    title: str,
    found: Sequence[_T],
    row: Callable[[_T], Sequence[str]],
    heads: Sequence[str],
    most: int,
    number: int | None = None,
) -> list[str]:
    """A table of the first `most` that were found; `number` is how many cells they are, if they do not tell."""
    if not found:
        return []
    more = [f"… and {len(found) - most} more."] if len(found) > most else []
    cells = number or sum(len(each.cells) if isinstance(each, DifferenceGroup | CellGroup) else 1 for each in found)
    return [
        *("", f"### {title}: {plural(cells, 'cell')}", ""),
        *table(heads, map(row, found[:most])),
        *(["", *more] if more else []),
    ]


def _difference(group: DifferenceGroup) -> Sequence[str]:
    return (
        *(code(group.architecture), code(str(group.variant)), group.change.value),
        *(_state(group.before), _state(group.after)),
        *(code(group.signature) if group.signature else "", _clauses(group.clauses)),
    )


def _failure(group: CellGroup) -> Sequence[str]:
    why = group.signature or next(iter((group.cells[0].message or "").splitlines()), "")
    return (
        code(group.architecture),
        code(str(group.variant)),
        _state(group.standing),
        code(why) if why.strip() else "",
        _clauses(group.clauses),
    )


def _unrun(missed: tuple[str, Sequence[CellRecord]]) -> Sequence[str]:
    said, cells = missed
    names, ways = ({str(each) for each in some} for some in ((c.architecture for c in cells), map(variant_of, cells)))
    shown = ", ".join(code(way) for way in sorted(ways)[:6]) + (f" and {len(ways) - 6} more" if len(ways) > 6 else "")
    return code(said, most=300), str(len(cells)), str(len(names)), shown


def _measured(each: Measured, factor: float, unit: str) -> Sequence[str]:
    numbers = (f"{each.base * factor:.3g}{unit}", f"{each.head * factor:.3g}{unit}")
    left = f"{numbers[1]}, now leaves {', '.join(map(code, each.operators[:4]))}" if each.operators else numbers[1]
    left += f" and {len(each.operators) - 4} more" if len(each.operators) > 4 else ""
    return code(each.architecture), code(str(each.variant)), numbers[0], left


def _state(standing: Standing) -> str:
    return f"{standing.glyph} {standing.label}"


def _clauses(clauses: Iterable[str]) -> str:
    return ", ".join(map(code, clauses))
