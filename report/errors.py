"""The error of commands whose input is wrong."""

from __future__ import annotations

from conformance.core.errors import InputError


class ReportError(InputError):
    """The input is wrong; the message is one sentence that names the file and the problem."""
