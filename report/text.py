"""Text from records in a terminal, on one line that is only ever text."""

from __future__ import annotations

from report.names import shown


def one_line(text: str, most: int = 160) -> str:
    """`text` as one line without control characters, and with an ellipsis where it is cut off.

    A failure may say whatever a stranger's exporter raised: terminals act on escape sequences, and the runner of
    GitHub Actions on `##[` wherever it stands in a line.
    """
    flat = " ".join(shown(text).split()).replace("##[", "## [")
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def plural(number: int, noun: str) -> str:
    """Such as "1 cell" and "2 cells"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
