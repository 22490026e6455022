"""A run as GitHub's workflow commands, which show as annotations beside a change.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from conformance.core.text import one_line, shown
from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.records.run import CellRecord, RunRecord
from report.compare import Comparison, Measured
from report.grouping import grouped, grouped_cells, unrun
from report.model import Variant
from report.summary import ROWS, headline
from report.text import plural


@dataclass(frozen=True, slots=True)
class Annotation:
    """One note: how bad it is, its title, and its text, which may have lines."""

    level: Literal["error", "warning", "notice"]
    title: str
    text: str

    def __str__(self) -> str:
        return f"::{self.level} title={_property(self.title)}::{_data(self.text)}"


def annotate(head: RunRecord, comparison: Comparison | None = None, rows: int = ROWS) -> str:
    """The annotations of `head`: the verdict on all of it, then the worst findings, then how many are left out.

    GitHub shows ten errors of a step and drops the others without a word, so the number is told.
    """
    found = list(_findings(head, comparison))
    bad = bool(found) or not head.run.complete
    lines = [Annotation("error" if bad else "notice", "ExecuTorch conformance", headline(head, comparison))]
    lines += found[: max(rows - 1, 1)]
    left = len(found) - len(lines) + 1
    if left > 0:
        lines.append(Annotation("notice", "ExecuTorch conformance", f"and {left} more; see the job summary"))
    return "\n".join(map(str, lines)) + "\n"


def _findings(head: RunRecord, comparison: Comparison | None) -> Iterator[Annotation]:
    old: set[str] = set()
    if comparison:
        old = {each.cell.id for each in comparison.regressions}
        for group in grouped(comparison.regressions):
            told = f"{group.change}: was {group.before.label}, is {group.after.label}"
            yield Annotation("error", _title(group.architecture, group.variant), _text(told, group.cells))
        for each in comparison.slower:
            yield _measured(each, f"slower to lower: {each.base:.3g} s before, {each.head:.3g} s now")
        for each in comparison.less_delegated:
            left = f"; newly left: {', '.join(each.operators)}" if each.operators else ""
            yield _measured(each, f"less delegated: {each.base:.1%} of operators before, {each.head:.1%} now{left}")
    told_apart = ACCEPTABLE | {Verdict.NOT_RUN}
    others = (cell for cell in head.cells if cell.verdict not in told_apart and cell.id not in old)
    for failing in grouped_cells(others):
        title = _title(failing.architecture, failing.variant)
        yield Annotation("error", title, _text(f"{failing.standing.label}, and not listed", failing.cells))
    for said, cells in unrun(head.cells):
        told = f"{said[:1500]}\nreplay: {one_line(cells[0].replay, most=500)}"
        yield Annotation("error", f"{plural(len(cells), 'cell')} not run", told)


def _measured(each: Measured, told: str) -> Annotation:
    return Annotation("warning", _title(each.architecture, each.variant), told)


def _title(architecture: str, variant: Variant) -> str:
    return one_line(f"{architecture}: {variant}")


def _text(told: str, cells: tuple[CellRecord, ...]) -> str:
    first = cells[0]
    lines = [told, one_line(f"clauses: {', '.join(cell.clause for cell in cells)}", most=400)]
    lines += [first.message.strip()[:1500]] if first.message else []
    lines += [f"replay: {one_line(first.replay, most=500)}"] if first.replay and first.replay not in lines[-1] else []
    return "\n".join(lines)


def _data(text: str) -> str:
    """All that a command says goes through here, since names of operators and signatures are a stranger's words too."""
    plain = shown(text).replace("##[", "## [")
    return plain.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
