"""Each module of tests says what it needs, so that those that need little can be run alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

_TESTS = Path(__file__).parent


def _markers(module: Path) -> set[str]:
    (line,) = re.findall("^pytestmark = (.+)$", module.read_text(encoding="utf-8"), re.MULTILINE) or [""]
    return set(re.findall(r"pytest\.mark\.(\w+)", line))


def test_each_module_is_marked() -> None:
    markers = {str(path.relative_to(_TESTS)): _markers(path) for path in _TESTS.rglob("test_*.py")}
    allowed = [{"unit"}, {"torch"}, {"process"}, {"torch", "process"}]
    assert {module: found for module, found in markers.items() if found not in allowed} == {}
