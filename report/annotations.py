"""A run as GitHub's workflow commands, which show as annotations beside a change.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from conformance.core.text import one_line, plural, sanitize
from conformance.records.run import CellRecord, RunRecord

from .analysis import analyse
from .analysis.clauses import clause_ranges
from .analysis.compare import Comparison, Measured, grouped
from .analysis.result import result_of, unchanged
from .analysis.variants import Variant
from .summary import ROWS, Pages, headline, unexpected


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation. Its text may have several lines."""

    level: Literal["error", "warning", "notice"]
    title: str
    text: str

    def __str__(self) -> str:
        return f"::{self.level} title={_property(self.title)}::{_data(self.text)}"


def annotate(head: RunRecord, comparison: Comparison | None = None, rows: int = ROWS, site: str = "") -> str:
    """The annotations of a run: the overall result, then the worst findings, then how many are not shown.

    GitHub shows ten errors of a step and drops the others silently, so their number is printed. The arguments are those
    of `summary`.
    """
    findings = list(_findings(head, comparison, site))
    text = "\n".join(filter(None, [headline(head, comparison), unchanged(head), f"{site}/index.html" if site else ""]))
    level: Literal["error", "notice"] = "notice" if result_of(head, comparison).good else "error"
    lines = [Annotation(level, "ExecuTorch conformance", text)]
    lines += findings[: max(rows - 1, 1)]
    hidden = len(findings) - len(lines) + 1
    if hidden > 0:
        lines.append(Annotation("notice", "ExecuTorch conformance", f"and {hidden} more; see the job summary"))
    return "\n".join(map(str, lines)) + "\n"


def _findings(head: RunRecord, comparison: Comparison | None, site: str) -> Iterator[Annotation]:
    regressions: set[str] = set()
    report = analyse([head])
    pages = Pages.of(report, site)
    if comparison:
        regressions = {difference.cell.id for difference in comparison.regressions}
        for group in grouped(comparison.regressions):
            summary = f"{group.change}: before: {group.before.label}; now: {group.after.label}"
            yield Annotation("error", _title(group.architecture, [group.variant]), _text(summary, group.cells, pages))
        for each in comparison.slower:
            yield _measured(each, f"slower to lower: {each.base:.3g} s before, {each.head:.3g} s now")
        for each in comparison.less_delegated:
            lost = f"; no longer delegated: {', '.join(each.operators)}" if each.operators else ""
            yield _measured(each, f"less delegated: {each.base:.1%} of operators before, {each.head:.1%} now{lost}")
    for cause in unexpected(report, regressions):
        for name, part in cause.parts.items():
            text = f"{part.outcome.label}, not a known failure: {part.title}"
            yield Annotation("error", _title(name, part.variants), _text(text, part.cells, pages))
    for unrun in report.unrun:
        text = f"{unrun.reason[:1500]}\nreplay: {one_line(unrun.cells[0].replay, max_chars=500)}"
        yield Annotation("error", f"{plural(len(unrun.cells), 'cell')} not run", text)


def _measured(each: Measured, text: str) -> Annotation:
    return Annotation("warning", _title(each.architecture, [each.variant]), text)


def _title(architecture: str, variants: Iterable[Variant]) -> str:
    return one_line(f"{architecture}: {', '.join(map(str, variants))}")


def _text(summary: str, cells: tuple[CellRecord, ...], pages: Pages) -> str:
    first = cells[0]
    clauses = ", ".join(clause_ranges(cell.clause for cell in cells))
    lines = [summary, one_line(f"clauses: {clauses}", max_chars=400)]
    page = pages.explaining(cells)
    lines += [f"{pages.site}/{page}"] if page else []
    lines += [first.message.strip()[:1500]] if first.message else []
    if first.replay and first.replay not in lines[-1]:
        lines.append(f"replay: {one_line(first.replay, max_chars=500)}")
    return "\n".join(lines)


def _data(text: str) -> str:
    """Every text of a command is escaped here: operators' names and signatures may come from any exporter."""
    plain = sanitize(text).replace("##[", "## [")
    return plain.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
