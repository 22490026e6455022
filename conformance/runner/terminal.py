"""The terminal output of a run: progress while cells are judged, and the grid and the failures at the end."""

from __future__ import annotations

import io
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.core.cells import Cell
from conformance.core.commands import RUN_COMMAND, command, runnable
from conformance.core.exporter_names import is_own, is_own_backend
from conformance.core.paths import ROOT, report_module
from conformance.core.text import first_few, format_counts, one_line, plural
from conformance.core.verdicts import Verdict, judged_nothing
from conformance.records.bundle import CONSENT
from conformance.records.run import CellRecord
from conformance.runner.option_table import DEFAULT_RECORD

if TYPE_CHECKING:
    from report.analysis import Report
    from report.analysis.causes import Cause
    from report.analysis.status import Status

#: The styles of statuses, by their style class in pages.
_STYLES = {
    "decodes-correctly": "green",
    "compiled-only": "blue",
    "known": "yellow",
    "unexpected": "bold red",
    "unexpected-pass": "bold red",
    "harness-error": "bold red",
}
_LEGEND = "≈ known   ✗ unexpected   ✓ ≈ – and other signs before a number: cells, by verdict"
#: The page that `tox -e report` writes, and the folder for a site where there is no tox.
_TOX_SITE, _SITE = "build/report/index.html", "build/site"
#: Printed after a reason that has no link.
_UNREPORTED = "not reported upstream"
NOTHING_JUDGED = "nothing was judged: no clause applies"
#: The statuses without problems.
_QUIET = frozenset({"decodes-correctly", "compiled-only", "not-applicable"})
#: The share of the cells that must be judged before the time left is estimated: the first one waits for the imports,
#: and cells of one kind take as long as others of it.
_ENOUGH = 0.1
#: More than any terminal has.
_ANY_WIDTH = 10_000
#: Cells listed under a cause before "and N more".
_SHOWN = 6


class Progress:
    """Writes a line when all cells of an architecture and column are judged: the run's progress, and their verdicts."""

    def __init__(self, write_line: Callable[[str], None]) -> None:
        self._write_line = write_line
        self._start = time.monotonic()
        self._done = 0
        self._columns: dict[tuple[str, str, str], list[CellRecord]] = {}
        self._sizes: Counter[tuple[str, str, str]] = Counter()

    def add(self, record: CellRecord, cell: Cell, planned: Mapping[str, Cell]) -> None:
        """Count a verdict; `planned` are the cells that this run will judge."""
        self._done += 1
        key = _column(cell)
        column = self._columns.setdefault(key, [])
        column.append(record)
        if self._sizes.total() != len(planned):  # counted once: thousands of cells arrive one by one
            self._sizes = Counter(map(_column, planned.values()))
        if len(column) < self._sizes[key]:
            return
        elapsed = time.monotonic() - self._start
        total = max(len(planned), self._done)
        remaining = elapsed * (total - self._done) / self._done
        left = f", about {_clock(remaining)} left" if _ENOUGH * total <= self._done < total else ""
        times = f"{_clock(elapsed)} elapsed{left}"
        verdicts = format_counts(Counter(record.verdict for record in column).items())
        name = " · ".join(part for part in key if part)
        self._write_line(f"{100 * self._done // total:3d}%  {self._done}/{total}  {times}  {name}: {verdicts}")


def render_summary(records: Sequence[CellRecord], path: Path, *, width: int, color: bool) -> str:
    """The whole summary as text of at most `width` columns."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, force_terminal=color, color_system="standard" if color else None)
    console.print()
    report: Report = report_module("analysis").analyse_cells(records)
    glyphs: Mapping[Verdict, str] = report_module("analysis.verdicts").GLYPHS
    if judged_nothing(record.verdict for record in records):
        console.print(NOTHING_JUDGED, style="bold red", highlight=False)
    else:
        _print_statuses(console, report, glyphs)
    for lines in _causes(report):
        console.print()
        console.print(lines, highlight=False, markup=False, soft_wrap=True)
    counts = Counter(record.verdict for record in records)
    verdicts = format_counts((verdict, counts[verdict]) for verdict in Verdict)
    console.print()
    console.print(f"{plural(len(records), 'cell')}: {verdicts}", style="bold", highlight=False)
    console.print(f"record: {path}", highlight=False, soft_wrap=True)
    console.print(f"site: {_site(path)}", highlight=False, soft_wrap=True)
    return buffer.getvalue()


def _print_statuses(console: Console, report: Report, glyphs: Mapping[Verdict, str]) -> None:
    """The grid, or only its rows with problems if it is too wide, and a sentence for each variant."""
    grid = _grid(report, glyphs)
    options = console.options.update(max_width=_ANY_WIDTH)
    table = grid if console.measure(grid, options=options).maximum <= console.width else _rows(report, glyphs)
    if table.row_count:
        console.print(table)
        console.print(_LEGEND, style="dim", highlight=False)
    console.print()
    for headline in report.headlines:
        others = f" ({headline.others})" if headline.others else ""
        text = f"{headline.text} on {report.short(headline.variant)}{others}"
        console.print(text, style="bold", highlight=False, markup=False, soft_wrap=True)


def _site(record: Path) -> str:
    """How to build and open a site of this record."""
    if RUN_COMMAND not in os.environ:
        build = command("report", "build", str(record.resolve()), "-o", _SITE)
        return f"run `{build}`, then open {Path(_SITE).absolute() / 'index.html'}"
    argument = "" if record.resolve() == ROOT / DEFAULT_RECORD else f" -- {shlex.quote(str(record.resolve()))}"
    return f"run `tox -e report{argument}`, then open {ROOT / _TOX_SITE}"


def _grid(report: Report, glyphs: Mapping[Verdict, str]) -> Table:
    """A row for each architecture, and a column for each variant."""
    states = [state for each in report.architectures for state in each.covered]
    columns = dict.fromkeys((*report.variants, *(state.variant for state in states)))
    table = _table("architecture", *(report.short(variant).replace(" ", "\n") for variant in columns))
    for each in report.architectures:
        found = {state.variant: state.status for state in each.covered}
        texts = (_status(found[variant], glyphs, "\n") if variant in found else Text() for variant in columns)
        table.add_row(Text(each.name), *texts)
    return table


def _rows(report: Report, glyphs: Mapping[Verdict, str]) -> Table:
    """The same if the grid is too wide: a row for each architecture and variant with a problem."""
    table = _table("architecture", "variant", "status")
    for each in report.architectures:
        for state in each.covered:
            if state.status.unexpected or state.status.kind not in _QUIET:
                status = _status(state.status, glyphs, "  ")
                table.add_row(Text(each.name), Text(report.short(state.variant)), status)
    return table


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(Text(head), overflow="fold")
    return table


def _status(status: Status, glyphs: Mapping[Verdict, str], separator: str) -> Text:
    """The status, and the number of cells by verdict."""
    text = Text(f"{status.glyph} {status.words}", style=_STYLES.get(status.kind, "dim"))
    for note in status.notes:
        text.append(f", {note}", _STYLES[note.kind])
    counts = " ".join(f"{glyphs[verdict]}{number}" for verdict, number in reversed(status.counts))
    return text.append(f"{separator}{counts}", "dim")


def _causes(report: Report) -> list[str]:
    """A paragraph for each cause of unexpected results, the first failure in full, the others by id; then the
    known failures, one line each.

    Cells that were not run are grouped over all architectures: the cause, such as a missing package, is the same.
    """
    bad = [(f"{cause.outcome.glyph} {cause.title}", cause.cells) for cause in report.causes if not cause.known]
    bad += [("○ not run", group.cells) for group in report.unrun]
    paragraphs = []
    for title, alike in bad:
        first = alike[0]
        replay = runnable(first.replay)
        message = (first.message or str(first.verdict)).replace(first.replay, replay)
        lines = [f"{title}: {plural(len(alike), 'cell')}", message]
        if replay not in message:
            lines.append(f"  replay    {replay}")
        if first.bundle:
            # The user ran this exporter on this backend, so they trust both.
            own = (not first.subject or is_own(first.subject)) and is_own_backend(first.backend)
            trust = [] if own else [CONSENT]
            lines.append(f"  bundle    {command('failure', 'replay', first.bundle, *trust)}")
        if len(alike) > 1:
            lines.append(f"  also      {first_few([record.id for record in alike[1:]], _SHOWN)}")
        paragraphs.append("\n".join(lines))
    by_reason: dict[str, list[Cause]] = {}
    for cause in report.causes:
        if cause.known:
            by_reason.setdefault(cause.reason, []).append(cause)
    explained = list(map(_explained, by_reason.values()))
    explained += [
        f"– {first_few(each.architectures, _SHOWN)}: {one_line(each.reason, max_chars=400)}"
        for each in report.inapplicable
    ]
    return [*paragraphs, "\n".join(explained)] if explained else paragraphs


def _explained(causes: Sequence[Cause]) -> str:
    """A line for the known failures with one reason, which may have several signatures."""
    first, number = causes[0], sum(len(cause.cells) for cause in causes)
    names = list(dict.fromkeys(name for cause in causes for name in cause.architectures))
    links = [link for cause in causes for link in cause.links]
    if not links and _UNREPORTED in first.reason.lower():
        links = [_UNREPORTED]
    return "; ".join([f"≈ {first.title}: {plural(number, 'cell')} of {first_few(names, _SHOWN)}", *links[:1]])


def _column(cell: Cell) -> tuple[str, str, str]:
    return cell.architecture, cell.subject or "", cell.column


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
