"""What goes wrong with what a person gave us."""

from __future__ import annotations


class ReportError(Exception):
    """The input is wrong; the message is one sentence that names the file and says what is wrong with it."""
