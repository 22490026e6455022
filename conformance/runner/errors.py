"""The error for a wrong command line or matrix, which pytest prints before it collects anything."""

from __future__ import annotations

import pytest

from conformance.core.errors import InputError, with_code


def usage_error(code: str, message: object) -> pytest.UsageError:
    """A usage error of pytest, whose message begins with the code."""
    return pytest.UsageError(with_code(InputError(code, message)))
