"""Tables in a terminal, or in a file that its output goes to."""

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

#: Wide enough for any row: what is piped is read by programs, which do not know of a row that was broken.
_UNBOUNDED = 100_000


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], most: int = 120) -> str:
    """A table as text. Nothing in it becomes markup, and a cell is cut off only with an ellipsis."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for head in heads:
        made.add_column(Text(one_line(head)), overflow="fold")
    for row in rows:
        made.add_row(*(Text(one_line(_plain(value), most)) for value in row))
    tty = sys.stdout.isatty()
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=tty, width=None if tty else _UNBOUNDED)
    console.print(made)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines() if line.strip()) + "\n"


def as_json(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as JSON, whole; what JSON has no type for is text."""
    names = [head if head not in heads[:index] else f"{head}_{index + 1}" for index, head in enumerate(heads)]
    plain = [{name: _number(value) for name, value in zip(names, row, strict=True)} for row in rows]
    return json.dumps(plain, indent=1, default=str) + "\n"


def _number(value: object) -> object:
    """JSON has no sign for what is not finite."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
