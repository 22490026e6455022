"""Text for people: without control characters, in one line, cut off, and numbers with their nouns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def sanitize(text: str) -> str:
    """`text` without control characters or marks that change the direction of reading; lines stay."""
    if text.isprintable():  # nearly all of it, and ten times as fast
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def one_line(text: str, max_chars: int = 160) -> str:
    """`text` sanitized, as one line of at most `max_chars` characters, with an ellipsis where it is cut off.

    An exporter's error may hold any text: terminals act on escape sequences, and the runner of GitHub Actions on `##[`
    anywhere in a line.
    """
    flat = " ".join(sanitize(text).split()).replace("##[", "## [")
    return flat if len(flat) <= max_chars else f"{flat[: max_chars - 1]}…"


def plural(number: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_counts(counts: Iterable[tuple[str, int]]) -> str:
    """`3 pass, 1 fail` for pairs of a name and a number; zeros are left out."""
    return ", ".join(f"{number} {name}" for name, number in counts if number)


def first_few(names: Sequence[str], max_names: int) -> str:
    """`a, b and 3 more`: the first `max_names`, and how many others there are."""
    more = f" and {len(names) - max_names} more" if len(names) > max_names else ""
    return f"{', '.join(names[:max_names])}{more}"
