"""One setting for all limits of wall-clock time."""

from __future__ import annotations

import pytest

from conformance.core.time_scale import TIME_SCALE, scaled
from tests.support.messages import refused

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("setting", "seconds"), [(None, 90), ("", 90), ("1", 90), ("2.5", 225), ("0.001", 1)])
def test_limits_scale(monkeypatch: pytest.MonkeyPatch, setting: str | None, seconds: int) -> None:
    monkeypatch.delenv(TIME_SCALE, raising=False)
    if setting is not None:
        monkeypatch.setenv(TIME_SCALE, setting)
    assert scaled(90) == seconds


@pytest.mark.parametrize("setting", ["0", "-1", "nan", "inf", "slow"])
def test_other_settings_are_refused(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv(TIME_SCALE, setting)
    with refused("invalid-number"):
        scaled(90)
