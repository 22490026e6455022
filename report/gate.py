"""The gate: is the head run worse than the base run? Cell by cell, so that improvements do not offset regressions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from conformance.core.option_names import by_option
from conformance.core.text import format_counts, one_line, plural
from conformance.core.verdicts import Verdict, judged_nothing
from conformance.records.run import UNREACHED, CellRecord, Environment, RunRecord

from .analysis.causes import unrun
from .analysis.clauses import clause_ranges
from .analysis.compare import Change, Comparison, Difference, DifferenceGroup, Measured, grouped
from .analysis.history import versions
from .analysis.verdicts import CONCLUSIVE
from .errors import ReportError
from .loading import when
from .names import commit
from .summary import ROWS


def refuse_unfit(run: RunRecord, name: str, *, is_head: bool = False) -> None:
    """Refuse a run that cannot be compared.

    A head that judged nothing is compared if it left out cells that cannot have changed, and none had errors or was not
    run. `compare` refuses it if its `since` names another run than the base.

    Raises:
        ReportError: The run is partial, or judged nothing, so that the gate would pass for lack of results. Cells that
            lack a package do not count as partial: they are compared, and fail the gate if the base had them.
    """
    counts = Counter(cell.verdict for cell in run.cells)
    unreached = sum(cell.verdict is Verdict.NOT_RUN and cell.message == UNREACHED for cell in run.cells)
    if not run.run.finished:
        done = plural(counts.total() - unreached, "cell")
        raise ReportError(
            "run-not-comparable",
            f"cannot compare {name}: the run did not finish ({done} done); finish it with --resume",
        )
    if unreached:
        missing = f"{plural(unreached, 'cell')} of this run {'was' if unreached == 1 else 'were'} not run"
        raise ReportError("run-not-comparable", f"cannot compare {name}: {missing}; finish it with --resume")
    if not run.nothing_missing and not counts[Verdict.NOT_RUN]:
        raise ReportError(
            "run-not-comparable",
            f"cannot compare {name}: cells of its plan are missing; run it without -k and the like",
        )
    unchanged = is_head and run.left_out and judged_nothing(counts)
    if unchanged or any(counts[verdict] for verdict in CONCLUSIVE):
        return
    if counts.total() > counts[Verdict.NOT_APPLICABLE] + counts[Verdict.NOT_RUN]:
        raise ReportError(
            "run-not-comparable", f"cannot compare {name}: this run has only errors: {format_counts(counts.items())}"
        )
    raise ReportError("run-not-comparable", f"cannot compare {name}: 0 of {plural(counts.total(), 'cell')} judged")


def format_comparison(comparison: Comparison, rows: int = ROWS) -> str:
    """The comparison for a terminal or a log: regressions first, and the result in the last line."""
    lines = [
        _side("base", comparison.base),
        _side("head", comparison.head),
        *map(_difference_line, differing(comparison)),
    ]
    if left_out := comparison.head.left_out:
        lines += [f"not in the head: {plural(len(left_out), 'cell')} that cannot have changed since the base"]
    regressions = comparison.regressions
    for change in Change:
        alike = [difference for difference in regressions if difference.change is change]
        lines += _changes(change.value, alike, rows, "✗")
        if change is Change.NOT_RUN:
            lines += _reasons([difference.head for difference in alike if difference.head])
    margins = comparison.margins
    slower = f"slower to lower, by more than {margins.slower_by:g} times and {margins.slower_seconds:g} s"
    lines += _measures(slower, comparison.slower, "{:.3g} s", rows)
    fewer = f"less delegated, by more than {100 * margins.delegation:g} % of the operators"
    lines += _measures(fewer, comparison.less_delegated, "{:.1%}", rows)
    for change in Change:
        lines += _changes(change.value, [found for found in comparison.of(change) if not found.regression], rows, "·")
    return "\n".join([*lines, "", result(comparison)]) + "\n"


def result(comparison: Comparison) -> str:
    """Whether the head is worse, in one line that begins with PASS or FAIL."""
    counts = Counter(difference.change.value for difference in comparison.regressions)
    counts += Counter({"slower": len(comparison.slower), "less delegated": len(comparison.less_delegated)})
    if comparison.worse:
        return f"FAIL: {format_counts(counts.items())}"
    head = comparison.head
    if not comparison.compared and not counts.total():
        return f"PASS: nothing to compare; {plural(len(head.left_out), 'cell')} cannot have changed since the base"
    text = f"PASS: {plural(comparison.compared, 'cell')} compared, none worse"
    if counts.total():
        text += f" by a clause that must hold ({format_counts(counts.items())})"
    return text + (f"; {comparison.run_in_neither} not run in both" if comparison.run_in_neither else "")


def answer(comparison: Comparison) -> str:
    """As `result`; for runs that the gate refuses, why it does."""
    try:
        refuse_unfit(comparison.base, "the run before")
        refuse_unfit(comparison.head, "the run now", is_head=True)
    except ReportError as error:
        return str(error)
    return result(comparison)


def _side(word: str, run: RunRecord) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in versions(run)) or "versions unknown"
    at = f", commit {made}" if (made := commit(run.run.commit)) else ""
    cells, started = plural(len(run.cells), "cell"), f"{when(run.run.started):%Y-%m-%d %H:%M} UTC"
    return one_line(f"{word}: {run.run.id}{at}, {started}, {cells}, {packages}", max_chars=300)


def differing(comparison: Comparison) -> tuple[tuple[str, str, str], ...]:
    """What differs in versions, machine and options, before and now: the purpose of a comparison, or a mistake."""
    base, head = comparison.base, comparison.head
    named = (
        ("version of ", base.environment.packages, head.environment.packages),
        ("", _machine(base.environment), _machine(head.environment)),
        ("", by_option(base.run.options), by_option(head.run.options)),
    )
    return tuple(
        (f"{prefix}{name}", _value(before.get(name)), _value(after.get(name)))
        for prefix, before, after in named
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )


def _machine(environment: Environment) -> dict[str, str]:
    return {"Python": environment.python, "platform": environment.platform, "CPU": environment.cpu}


def _difference_line(difference: tuple[str, str, str]) -> str:
    name, before, after = difference
    return one_line(f"{name}: {before} → {after}")


def _value(value: object) -> str:
    return "none" if value is None else str(value)


def _changes(title: str, differences: Sequence[Difference], rows: int, sign: str) -> list[str]:
    groups = grouped(differences)
    return _listed(f"{sign} {title}: {plural(len(differences), 'cell')}", map(_line, groups), len(groups), rows)


def _reasons(cells: Sequence[CellRecord]) -> list[str]:
    """The three most frequent reasons why cells were not run."""
    return [f"  {one_line(f'reason: {group.reason}', max_chars=240)}" for group in unrun(cells)[:3]]


def _line(group: DifferenceGroup) -> str:
    states = f"{group.before.label} → {group.after.label}" + (f" ({group.signature})" if group.signature else "")
    unexpected = group.unexpected and not group.regression
    note = "; not a known failure (already fails the run itself)" if unexpected else ""
    program = f"{group.architecture} · {group.variant}"
    return one_line(f"{program}: {states}: {', '.join(clause_ranges(group.clauses))}{note}", max_chars=240)


def _measures(title: str, measured: Sequence[Measured], form: str, rows: int) -> list[str]:
    lines = (
        one_line(
            f"{each.architecture} · {each.variant}: {form.format(each.base)} → {form.format(each.head)}{_lost(each)}"
        )
        for each in measured
    )
    return _listed(f"✗ {title}: {len(measured)}", lines, len(measured), rows)


def _lost(measured: Measured) -> str:
    return f"; no longer delegated: {', '.join(measured.operators)}" if measured.operators else ""


def _listed(title: str, lines: Iterable[str], number: int, rows: int) -> list[str]:
    if not number:
        return []
    kept = [f"  {line}" for line in list(lines)[:rows]]
    return ["", title, *kept, *([f"  and {number - rows} more"] if number > rows else [])]
