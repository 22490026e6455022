"""Keep torch out of unit tests, and tune the garbage collector, since tests import and lower as the suite does."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from conformance.core.gc_tuning import freeze_gc, gc_paused
from conformance.runner.pytest_settings import pytest_configure

__all__ = ["pytest_configure"]


def _is_unit_loop(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == "unit")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m unit`, leave modules without unit tests unread: importing torch takes longer than all the unit tests."""
    if _is_unit_loop(config) and collection_path.match("test_*.py"):
        return "pytest.mark.unit" not in collection_path.read_text(encoding="utf-8") or None
    return None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the modules of tests, and torch, Transformers and ExecuTorch with them."""
    with gc_paused():
        collected = yield
    freeze_gc()
    return collected


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail the unit test that imports torch."""
    result = yield
    if _is_unit_loop(item.config):
        assert "torch" not in sys.modules, "torch was imported: mark the module with `torch` instead of `unit`"
    return result
