"""Text that others wrote, from a record, a bundle or a failure, as text that is only ever text."""

from __future__ import annotations


def shown(text: str) -> str:
    """`text` without control characters or marks that change the direction of reading; lines stay."""
    if text.isprintable():  # nearly all of it, and ten times as fast
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def one_line(text: str, most: int = 160) -> str:
    """`text` as one line without control characters, and with an ellipsis where it is cut off.

    A failure may say whatever a stranger's exporter raised: terminals act on escape sequences, and the runner of
    GitHub Actions on `##[` wherever it stands in a line.
    """
    flat = " ".join(shown(text).split()).replace("##[", "## [")
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"
