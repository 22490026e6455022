"""Tables for a terminal or a pipe."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.core.text import one_line

#: Wide enough for any row: programs that read a pipe would take a wrapped row for two.
_UNBOUNDED = 100_000


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], max_chars: int = 120) -> str:
    """A table as text. Values never become markup; one of more than `max_chars` is cut off with an ellipsis."""
    rich_table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for head in heads:
        rich_table.add_column(Text(one_line(head)), overflow="fold")
    for row in rows:
        rich_table.add_row(*(Text(one_line(_plain(value), max_chars)) for value in row))
    tty = sys.stdout is not None and sys.stdout.isatty()
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=tty, width=None if tty else _UNBOUNDED)
    console.print(rich_table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines() if line.strip()) + "\n"


def as_json(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as JSON, not cut off; values that JSON has no type for become text."""
    names = [head if head not in heads[:index] else f"{head}_{index + 1}" for index, head in enumerate(heads)]
    plain = [{name: _number(value) for name, value in zip(names, row, strict=True)} for row in rows]
    return json.dumps(plain, indent=1, default=str) + "\n"


def _number(value: object) -> object:
    """JSON has no notation for infinity and NaN."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
