"""The suite's settings of pytest."""

from __future__ import annotations

from conformance.runner.pytest_settings import pytest_configure

__all__ = ["pytest_configure"]
