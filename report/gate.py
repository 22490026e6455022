"""The gate: does the head run do worse than the base run? By cell, so that nothing better makes up for what is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from conformance.core.text import one_line
from conformance.core.verdicts import Verdict
from conformance.records.run import UNREACHED, CellRecord, RunRecord
from report.compare import Change, Comparison, Difference, Measured
from report.errors import ReportError
from report.grouping import DifferenceGroup, grouped, unrun
from report.loading import when
from report.names import commit
from report.summary import ROWS
from report.text import plural
from report.timeline import versions

#: The verdicts that say something of the subject, and not only that it could not be looked at.
_TELLING = frozenset({Verdict.PASS, Verdict.FAIL, Verdict.EXPECTED_FAILURE, Verdict.UNEXPECTED_PASS})


def refuse_unfit(run: RunRecord, name: str) -> None:
    """Let through a run that can be compared.

    Raises:
        ReportError: The run is partial, or judged nothing, so that it would make an empty comparison look good. Cells
            that lack a package are no part of that: they are compared, and close the gate if the base had them.
    """
    counts = Counter(cell.verdict for cell in run.cells)
    unreached = sum(cell.verdict is Verdict.NOT_RUN and cell.message == UNREACHED for cell in run.cells)
    if not run.run.finished or unreached:
        left = f"left {plural(unreached, 'cell')} unreached"
        judged = plural(counts.total() - unreached, "cell")
        told = left if run.run.finished else f"never finished: it came to {judged}, and --resume goes on with it"
        raise ReportError(f"{name} is a partial run and cannot be compared: it {told}")
    if any(counts[verdict] for verdict in _TELLING):
        return
    if counts.total() > counts[Verdict.NOT_APPLICABLE] + counts[Verdict.NOT_RUN]:
        told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        raise ReportError(f"{name} is a run of nothing but errors and cannot be compared: {told}")
    raise ReportError(f"{name} judged nothing and cannot be compared: it has {plural(counts.total(), 'cell')}")


def told(comparison: Comparison, rows: int = ROWS) -> str:
    """The comparison for a terminal or a log; what closes the gate first, and why at the end."""
    lines = [_side("base", comparison.base), _side("head", comparison.head), *_differing(comparison)]
    if since := comparison.head.run.since:
        lines += [
            f"left out of the head: {plural(len(since.left_out), 'cell')}, of which nothing has changed since the base"
        ]
    regressions = comparison.regressions
    for change in Change:
        lines += _changes(change.value, [each for each in regressions if each.change is change], rows, "✗")
        if change is Change.NOT_RUN:
            lines += _reasons([each.head for each in regressions if each.change is change and each.head])
    margins = comparison.margins
    slower = f"slower to lower, by more than {margins.slower_by:g} times and {margins.slower_seconds:g} s"
    lines += _measures(slower, comparison.slower, "{:.3g} s", rows)
    fewer = f"less delegated, by more than {100 * margins.delegation:g} % of the operators"
    lines += _measures(fewer, comparison.less_delegated, "{:.1%}", rows)
    for change in Change:
        lines += _changes(change.value, [each for each in comparison.of(change) if not each.regression], rows, "·")
    parts = Counter(each.change.value for each in regressions)
    parts += Counter({"slower": len(comparison.slower), "less delegated": len(comparison.less_delegated)})
    if comparison.worse:
        lines += ["", "gate: closed, " + ", ".join(f"{number} {name}" for name, number in parts.items())]
    else:
        lines += ["", f"gate: open, {plural(len(comparison.head.cells), 'cell')} compared, none is worse"]
    return "\n".join(lines) + "\n"


def _side(word: str, run: RunRecord) -> str:
    found = ", ".join(f"{name} {version}" for name, version in versions(run)) or "versions unknown"
    at = f", commit {made}" if (made := commit(run.run.commit)) else ""
    cells = plural(len(run.cells), "cell")
    return one_line(f"{word}: {run.run.id}{at}, {when(run.run.started):%Y-%m-%d %H:%M} UTC, {cells}, {found}", most=300)


def _differing(comparison: Comparison) -> Iterator[str]:
    """The versions and options that differ: the point of a comparison, or what is wrong with it."""
    for kind, before, after in (
        ("version", comparison.base.environment.packages, comparison.head.environment.packages),
        ("option", comparison.base.run.options, comparison.head.run.options),
    ):
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                yield one_line(f"{kind} of {name}: {_shown(before.get(name))} → {_shown(after.get(name))}")


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _changes(title: str, found: Sequence[Difference], rows: int, sign: str) -> list[str]:
    groups = grouped(found)
    return _listed(f"{sign} {title}: {plural(len(found), 'cell')}", map(_line, groups), len(groups), rows)


def _reasons(cells: Sequence[CellRecord]) -> list[str]:
    """Why cells were not run, the most frequent reasons alone."""
    return [f"  {one_line(f'why: {said}', most=240)}" for said, _ in unrun(cells)[:3]]


def _line(group: DifferenceGroup) -> str:
    states = f"{group.before.label} → {group.after.label}" + (f" ({group.signature})" if group.signature else "")
    unlisted = "" if group.regression or not group.unlisted else "; not listed: its own run has failed for it"
    where = f"{group.architecture} · {group.variant}"
    return one_line(f"{where}: {states}: {', '.join(group.clauses)}{unlisted}", most=240)


def _measures(title: str, found: Sequence[Measured], form: str, rows: int) -> list[str]:
    lines = (
        one_line(
            f"{each.architecture} · {each.variant}: {form.format(each.base)} → {form.format(each.head)}{_left(each)}"
        )
        for each in found
    )
    return _listed(f"✗ {title}: {len(found)}", lines, len(found), rows)


def _left(each: Measured) -> str:
    return f": now leaves {', '.join(each.operators)}" if each.operators else ""


def _listed(title: str, lines: Iterable[str], number: int, rows: int) -> list[str]:
    if not number:
        return []
    kept = [f"  {line}" for line in list(lines)[:rows]]
    return ["", title, *kept, *([f"  and {number - rows} more"] if number > rows else [])]
