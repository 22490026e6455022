"""Numbers with their nouns."""

from __future__ import annotations


def plural(number: int, noun: str) -> str:
    """Such as "1 cell" and "2 cells"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
