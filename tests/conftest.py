"""Tests import what the suite does, and lower as it does: they are spared looking for garbage in the same places."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from conformance.core.gc_tuning import importing, settle


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the modules of tests, and torch, Transformers and ExecuTorch with them."""
    with importing():
        collected = yield
    settle()
    return collected
