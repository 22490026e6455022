"""The error of commands whose input is wrong."""

from __future__ import annotations


class ReportError(Exception):
    """The input is wrong; the message is one sentence that names the file and the problem."""
