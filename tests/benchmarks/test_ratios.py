"""Ratios are read off what pytest-benchmark writes; no time is measured here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.pairs import BASE, OURS, Ratio, note, ratios

pytestmark = pytest.mark.unit


def _measured(side: str, seconds: float, size: int = 100, *, timed: bool = True) -> dict[str, Any]:
    benchmark = SimpleNamespace(extra_info={})
    note(benchmark, "llama: one token", side, 1.03, {"program bytes": size}, timed=timed)
    return {"stats": {"min": seconds}, "extra_info": benchmark.extra_info}


def _file(path: Path, *measured: dict[str, Any]) -> list[str]:
    path.write_text(json.dumps({"benchmarks": measured}))
    return [str(path)]


def test_times_and_sizes_are_ratios_of_one_pair() -> None:
    found = ratios([_measured(OURS, 2.0, 110), _measured(BASE, 4.0)])
    assert found == [
        Ratio("llama: one token, seconds", 2.0, 4.0, 1.03),
        Ratio("llama: one token, program bytes", 110, 100, 1.03),
    ]
    assert [each.holds for each in found] == [True, False]


def test_what_is_not_timed_has_sizes_alone() -> None:
    found = ratios([_measured(OURS, 9.0, 101, timed=False), _measured(BASE, 1.0, timed=False)])
    assert found == [Ratio("llama: one token, program bytes", 101, 100, 1.03)]


def test_a_side_alone_is_not_a_ratio() -> None:
    with pytest.raises(ValueError, match="llama: one token: measured ours alone"):
        ratios([_measured(OURS, 2.0)])


@pytest.mark.parametrize(("size", "code", "sign"), [(103, 0, "✓"), (104, 1, "✗")])
def test_what_is_out_of_bounds_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int, code: int, sign: str
) -> None:
    assert main(_file(tmp_path / "a.json", _measured(OURS, 1.0, size), _measured(BASE, 1.0))) == code
    assert f"{sign} llama: one token, program bytes" in capsys.readouterr().out


def test_a_file_that_is_not_a_result_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.json")]) == 2
    assert main(_file(tmp_path / "a.json", _measured(OURS, 1.0))) == 2
    assert main([]) == 2
    assert capsys.readouterr().err.count("error: ") == 3
