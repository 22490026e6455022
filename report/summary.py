"""A run in Markdown, for a pull request or a job summary: what got worse first, and only as much as anybody reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from conformance.records import RunRecord
from conformance.verdicts import ACCEPTABLE, Verdict
from report.compare import Change, Comparison, Measured
from report.grouping import CellGroup, DifferenceGroup, grouped, grouped_cells
from report.loading import when
from report.markdown import code, table
from report.model import GLYPHS, Standing, count
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
    unlisted = [cell for cell in head.cells if cell.verdict not in ACCEPTABLE and cell.id not in old]
    title = "Other failures that nobody listed" if old else "Failures that nobody listed"
    lines += _section(title, grouped_cells(unlisted), _failure, _FAILURE_HEADS, rows)
    if comparison:
        for change in Change:
            found = grouped(each for each in comparison.of(change) if not each.regression)
            lines += _section(change.value.capitalize(), found, _difference, _DIFFERENCE_HEADS, rows)
    return "\n".join(lines) + "\n"


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
    rows = [
        ["run", *(code(run.run.id) for run in runs)],
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


_DIFFERENCE_HEADS = ("architecture", "variant", "change", "was", "is", "signature", "clauses")
_FAILURE_HEADS = ("architecture", "variant", "is", "signature", "clauses")
_MEASURED_HEADS = ("architecture", "variant", "was", "is")


def _section(
    title: str, found: Sequence[_T], row: Callable[[_T], Sequence[str]], heads: Sequence[str], most: int
) -> list[str]:
    if not found:
        return []
    more = [f"… and {len(found) - most} more."] if len(found) > most else []
    cells = sum(len(each.cells) if isinstance(each, DifferenceGroup | CellGroup) else 1 for each in found)
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
    signature = code(group.signature) if group.signature else ""
    return (
        code(group.architecture),
        code(str(group.variant)),
        _state(group.standing),
        signature,
        _clauses(group.clauses),
    )


def _measured(each: Measured, factor: float, unit: str) -> Sequence[str]:
    numbers = (f"{each.base * factor:.3g}{unit}", f"{each.head * factor:.3g}{unit}")
    return code(each.architecture), code(str(each.variant)), *numbers


def _state(standing: Standing) -> str:
    return f"{standing.glyph} {standing.label}"


def _clauses(clauses: Iterable[str]) -> str:
    return ", ".join(map(code, clauses))
