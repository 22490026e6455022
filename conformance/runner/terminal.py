"""The terminal output of a run: progress while cells are judged, and the grid and the failures at the end."""

from __future__ import annotations

import io
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.core.cells import Cell
from conformance.core.commands import RUN_COMMAND, command, runnable
from conformance.core.exporter_names import is_own
from conformance.core.paths import ROOT
from conformance.core.text import first_few, format_counts, plural
from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.records.bundle import CONSENT
from conformance.records.run import CellRecord
from conformance.runner.options import DEFAULT_RECORD

_GLYPHS = {
    Verdict.PASS: ("✓", "green"),
    Verdict.EXPECTED_FAILURE: ("≈", "yellow"),
    Verdict.NOT_APPLICABLE: ("–", "dim"),
}
_BAD = ("✗", "bold red")
_LEGEND = "✓ pass   ≈ expected failure   – not applicable   ✗ unexpected result (stage)"
#: The page that `tox -e report` writes, and the folder for a site where there is no tox.
_TOX_SITE, _SITE = "build/report/index.html", "build/site"
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
        times = f"{_clock(elapsed)} elapsed, about {_clock(remaining)} left"
        verdicts = format_counts(Counter(record.verdict for record in column).items())
        name = " · ".join(part for part in key if part)
        self._write_line(f"{100 * self._done // total:3d}%  {self._done}/{total}  {times}  {name}: {verdicts}")


def render_summary(
    records: Sequence[CellRecord], cells: Mapping[str, Cell], path: Path, *, width: int, color: bool
) -> str:
    """The whole summary as text of at most `width` columns."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, force_terminal=color, color_system="standard" if color else None)
    console.print()
    console.print(_grid(records, cells))
    console.print(_LEGEND, style="dim", highlight=False)
    for lines in _causes(records):
        console.print()
        console.print(lines, highlight=False, markup=False, soft_wrap=True)
    counts = Counter(record.verdict for record in records)
    verdicts = format_counts((verdict, counts[verdict]) for verdict in Verdict)
    console.print()
    console.print(f"{plural(len(records), 'cell')}: {verdicts}", style="bold", highlight=False)
    console.print(f"record: {path}", highlight=False, soft_wrap=True)
    console.print(f"site: {_site(path)}", highlight=False, soft_wrap=True)
    return buffer.getvalue()


def _site(record: Path) -> str:
    """How to build and open a site of this record."""
    if RUN_COMMAND not in os.environ:
        build = command("report", "build", str(record.resolve()), "-o", _SITE)
        return f"run `{build}`, then open {Path(_SITE).absolute() / 'index.html'}"
    argument = "" if record.resolve() == ROOT / DEFAULT_RECORD else f" -- {shlex.quote(str(record.resolve()))}"
    return f"run `tox -e report{argument}`, then open {ROOT / _TOX_SITE}"


def _grid(records: Sequence[CellRecord], cells: Mapping[str, Cell]) -> Table:
    columns = list(dict.fromkeys(cells[record.id].column for record in records))
    subjects = list(dict.fromkeys(record.subject for record in records if record.subject))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("architecture", no_wrap=True)
    for column in columns:
        table.add_column(column.replace(" ", "\n"), no_wrap=True)
    by_column: dict[tuple[str, str | None, str], list[CellRecord]] = {}
    for record in records:
        by_column.setdefault((record.architecture, record.subject, cells[record.id].column), []).append(record)
    for architecture in dict.fromkeys(record.architecture for record in records):
        for subject in subjects or (None,):
            name = architecture if len(subjects) < 2 else f"{architecture} ({subject})"
            groups = [
                by_column.get((architecture, subject, column)) or by_column.get((architecture, None, column)) or []
                for column in columns
            ]
            table.add_row(name, *map(_glyphs, groups))
    return table


def _glyphs(records: Iterable[CellRecord]) -> Text:
    text = Text()
    counts = Counter(record.verdict for record in records if record.verdict in ACCEPTABLE)
    for verdict in _GLYPHS:
        glyph, style = _GLYPHS[verdict]
        if counts[verdict]:
            text.append(f"{glyph}{counts[verdict]} ", style)
    bad = Counter(record.stage or record.verdict for record in records if record.verdict not in ACCEPTABLE)
    for stage, count in bad.items():
        text.append(f"{_BAD[0]}{count} {stage} ", _BAD[1])
    return text


def _causes(records: Iterable[CellRecord]) -> list[str]:
    """A paragraph for each cause: the first failure in full, the others by id.

    Cells that were not run are grouped over all architectures: the cause, such as a missing package, is the same.
    """
    bad: dict[tuple[str, str | None], list[CellRecord]] = {}
    for record in records:
        if record.verdict is Verdict.NOT_RUN:
            bad.setdefault((record.verdict, record.message), []).append(record)
        elif record.verdict not in ACCEPTABLE:
            key = record.signature if record.verdict is Verdict.FAIL else record.verdict
            bad.setdefault((f"{record.architecture} {key}", None), []).append(record)
    paragraphs = []
    for (title, _), alike in bad.items():
        first = alike[0]
        replay = runnable(first.replay)
        message = (first.message or str(first.verdict)).replace(first.replay, replay)
        lines = [f"✗ {title}: {plural(len(alike), 'cell')}", message]
        if replay not in message:
            lines.append(f"  replay    {replay}")
        if first.bundle:
            # The user ran this exporter, so they trust it.
            trust = [CONSENT] if first.subject and not is_own(first.subject) else []
            lines.append(f"  bundle    {first.bundle}: `{command('failure', 'replay', first.bundle, *trust)}`")
        if len(alike) > 1:
            lines.append(f"  also      {first_few([record.id for record in alike[1:]], _SHOWN)}")
        paragraphs.append("\n".join(lines))
    return paragraphs


def _column(cell: Cell) -> tuple[str, str, str]:
    return cell.architecture, cell.subject or "", cell.column


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
