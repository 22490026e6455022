"""What pages made of run records share: text from records reads as itself, and never becomes markup, even on GitHub.

Such text may be whatever torch or a stranger's exporter raised. Imports no torch.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from datetime import UTC, datetime

from conformance.core.verdicts import Verdict
from conformance.records.run import RunRecord


def prose(text: str) -> str:
    """`text` such that it reads as itself anywhere inside a line or a table, and never as markup."""
    escaped = re.sub(r"[\\`*~|\[\]]|_(?![^\W_])|(?<![^\W_])_", r"\\\g<0>", html.escape(_flat(text), quote=False))
    # GitHub acts on these even where they are escaped, unless they stand in an element of their own.
    return re.sub(r"[@$]|(?<=:)//|(?<=www)\.", r"<span>\g<0></span>", escaped, flags=re.IGNORECASE)


def code(text: str) -> str:
    """`text` as code; not for tables, which end a cell at a pipe even there."""
    flat = _flat(text) or "–"
    fence = "`" * (1 + max(map(len, re.findall("`+", flat)), default=0))
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def address(text: str) -> str:
    """An address that is plainly one is a link; anything else is prose."""
    return f"<{text}>" if re.fullmatch(r"https?://[\w./#?=&%+~:@,-]+", text, re.ASCII) else prose(text)


def gist(message: str) -> str:
    """The first line, which says where, and what was observed if the message tells it in the usual shape."""
    first, *rest = message.strip().splitlines() or [""]
    observed = [line for line in rest if line.startswith("  observed  ")]
    return " ".join([first, *observed[:1]])


def counted(number: int, noun: str) -> str:
    """Such as "2 cells"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def moment(text: str) -> datetime:
    """The time that a record tells; UTC, where it does not say in which zone."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def unfinished(runs: Iterable[RunRecord]) -> list[str]:
    """A warning for each run that has not judged all that it was to judge."""
    lines = []
    for run in runs:
        if not run.run.complete:
            missing = sum(cell.verdict is Verdict.NOT_RUN for cell in run.cells)
            ended = "was stopped early" if run.run.finished else "never finished"
            lines += [
                *("", "> [!WARNING]"),
                f"> **Run {code(run.run.id)} is not complete:** it {ended}. {counted(missing, 'cell')} in its record "
                "had not been run; others may be missing altogether.",
            ]
    return lines


def _flat(text: str) -> str:
    """One line, without control characters or marks that change the direction of reading."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
