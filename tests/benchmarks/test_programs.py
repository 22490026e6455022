"""Benchmarks of programs: which cases there are, what bounds say of a row, and the page."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__
from benchmarks.programs import store as programs_store
from benchmarks.programs.bounds import judged
from benchmarks.programs.cases import (
    EAGER,
    OPTIMUM,
    REFERENCE,
    SHAPES,
    SIDES,
    TRANSFORMERS,
    Case,
    selected,
    shape_named,
    sides_named,
)
from benchmarks.programs.page import performance_page
from benchmarks.programs.results import load, merged, write
from benchmarks.programs.store import Store, key_of
from conformance.core.contract import Mode
from conformance.core.paths import PACKAGE
from tests.benchmarks.rows import results, row, side, void

pytestmark = pytest.mark.unit

_ANYWHERE = "decode, anywhere: reference / transformers"
_MEMORY = "planned memory: reference / better of both"
_CASE = Case(shape_named("smollm2-4"), "float32", 1024, Mode.DECODE)


# Cases


def test_the_quick_selection_is_the_slice_in_both_modes() -> None:
    assert [case.name for case in selected(full=False)] == [
        "smollm2-4-float32-1024-decode",
        "smollm2-4-float32-1024-dynamic",
    ]


def test_the_whole_table_has_every_shape_dtype_cache_and_mode() -> None:
    assert len({case.name for case in selected(full=True)}) == (len(SHAPES) + 1) * 3 * 3 * 2


def test_an_option_replaces_its_part_of_the_selection() -> None:
    chosen = selected(full=True, shapes="lfm2", dtypes="8da4w", caches=None, modes="decode")
    assert [case.name for case in chosen] == [f"lfm2-8da4w-{cache}-decode" for cache in (128, 1024, 2048)]
    assert sides_named("optimum,eager") == (OPTIMUM, EAGER)
    assert sides_named(None) == tuple(SIDES.values())


@pytest.mark.parametrize("name", SHAPES)
def test_a_slice_has_four_layers_of_every_kind_that_the_model_has(name: str) -> None:
    whole, part = SHAPES[name].values, shape_named(f"{name}-4").values
    assert part["num_hidden_layers"] == len(part.get("layer_types", range(4))) == 4
    assert set(part.get("layer_types", ())) == set(whole.get("layer_types", ()))
    assert len(whole.get("layer_types", range(whole["num_hidden_layers"]))) == whole["num_hidden_layers"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("shapes", "smolm2", "No such shape 'smolm2'. Did you mean 'smollm2'?"),
        ("dtypes", "float23", "Did you mean 'float32'?"),
        ("modes", "decoded", "Did you mean 'decode'?"),
        ("caches", "16", "a cache of '16' tokens cannot be measured: write a number from 128 on"),
        ("caches", "1k", "a cache of '1k' tokens"),
    ],
)
def test_a_name_that_does_not_exist_is_an_error(field: str, value: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("?", "[?]")):
        selected(full=False, **{field: value})


def test_a_side_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="No such side 'optimun'"):
        sides_named("reference,optimun")


def test_a_case_comes_back_from_another_process() -> None:
    assert Case.of_values(_CASE.as_values()) == _CASE


def test_a_prompt_is_shorter_than_its_cache() -> None:
    assert [dataclasses.replace(_CASE, cache=cache).prompt for cache in (128, 1024)] == [127, 128]


# Bounds


def _met(name: str, ours: dict[str, Any], base: dict[str, Any], **fields: Any) -> bool | None:
    measured = row({"reference": side(**ours), "transformers": side(**base)}, **fields)
    return next(each.met for each in judged(measured) if each.bound.name == name)


def test_a_bound_has_to_hold_at_both_ends_of_the_cache() -> None:
    assert _met(_ANYWHERE, {"start": 0.45, "end": 0.45}, {"start": 1.0, "end": 1.0}) is True
    assert _met(_ANYWHERE, {"start": 0.1, "end": 0.46}, {"start": 1.0, "end": 1.0}) is False


def test_short_caches_are_not_asked_for_the_gain_of_long_ones() -> None:
    assert _ANYWHERE not in {each.bound.name for each in judged(row({"reference": side()}, cache=128))}


def test_the_roofline_is_asked_of_float32() -> None:
    name = "decode, near the start: reference / roofline"
    assert _met(name, {"start": 0.013}, {}) is True
    assert _met(name, {"start": 0.0131}, {}) is False
    assert name not in {each.bound.name for each in judged(row({"reference": side()}, dtype="bfloat16"))}


def test_the_better_of_both_is_the_measure() -> None:
    sides = {"reference": side(size=1000), "transformers": side(size=2000), "optimum": side(size=900)}
    found = next(each for each in judged(row(sides)) if each.bound.name == _MEMORY)
    assert (found.met, found.part) == (False, "optimum")
    del sides["optimum"]
    found = next(each for each in judged(row(sides)) if each.bound.name == _MEMORY)
    assert (found.met, found.part) == (True, "transformers")


def test_a_side_whose_logits_are_wrong_is_not_measured() -> None:
    sides = {"reference": side(size=1000), "transformers": side(size=2000), "optimum": void(side(size=900))}
    found = next(each for each in judged(row(sides)) if each.bound.name == _MEMORY)
    assert (found.met, found.part) == (True, "transformers")
    sides["reference"] = void(side())
    assert {each.met for each in judged(row(sides))} == {None}


def test_a_side_that_was_not_filled_to_the_end_is_not_measured() -> None:
    sides = {"reference": side(), "transformers": dataclasses.replace(side(start=9.0), end=None)}
    assert next(each.met for each in judged(row(sides)) if each.bound.name == _ANYWHERE) is None


# The page


def test_the_page_has_figures_ratios_bounds_and_reasons() -> None:
    sides = {
        "reference": side(size=1 << 20),
        "transformers": side(start=0.04, size=2 << 20),
        "optimum": void(side()),
        "reference-custom": dataclasses.replace(side(), made=None, start=None, absent="not measured: no attention"),
    }
    page = performance_page([results(row(sides))])
    assert "| transformers | 25.0 (0.50) | 33.3 (1.00) | 256 (1.00) | 2.0 (2.00) |" in page
    assert "| optimum | void |" in page
    assert "`reference-custom`: not measured: no attention" in page
    assert "✗ 1.00 end" in page
    assert "smollm2-4, float32, cache 1,024, dynamic" in page


def test_a_ratio_just_above_its_bound_is_not_printed_as_within() -> None:
    sides = {"reference": side(size=100_001), "transformers": side(size=100_000)}
    assert "✗ 1.00001 transformers" in performance_page([results(row(sides))])


def test_the_newer_of_two_measurements_of_a_case_counts() -> None:
    old, new = row({}, started="2026-11-29T01:00:00"), row({"reference": side()}, started="2026-11-30T01:00:00")
    assert merged([results(new), results(old)]) == [new]


def test_published_results_are_kept_and_the_page_is_printed_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(__main__, "ROOT", tmp_path)
    monkeypatch.setattr(__main__, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(__main__, "RECORDS", tmp_path / "records")
    measured = results(row({"reference": side()}))
    write(tmp_path / "a.json", measured)
    assert __main__.main(["--publish", str(tmp_path / "a.json")]) == 0
    first = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert first == performance_page([measured])
    assert load(tmp_path / "records" / "01.json") == measured
    assert __main__.main(["--publish"]) == 0
    assert (tmp_path / "performance.md").read_text(encoding="utf-8") == first


def test_the_committed_page_is_what_its_records_print() -> None:
    records = sorted(__main__.RECORDS.glob("*.json"))
    assert records
    assert __main__.PAGE.read_text(encoding="utf-8") == performance_page([load(path) for path in records])


@pytest.mark.parametrize(("ours", "code", "sign"), [(0.4, 0, "✓"), (0.5, 1, "✗")])
def test_a_bound_that_does_not_hold_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ours: float, code: int, sign: str
) -> None:
    sides = {"reference": side(start=ours, end=ours, seconds=1.0), "transformers": side(start=1.0, end=1.0)}
    write(tmp_path / "a.json", results(row(sides, weight_bytes=10**9)))
    assert __main__.main([str(tmp_path / "a.json")]) == code
    assert f"{sign}  {_ANYWHERE}" in capsys.readouterr().out


def test_results_of_another_format_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text('{"rows": 1}', encoding="utf-8")
    assert __main__.main([str(tmp_path / "a.json")]) == 2
    assert "is not a result of benchmarks/programs" in capsys.readouterr().err


# The store


def test_a_program_is_known_by_what_it_is_made_of() -> None:
    key = key_of(_CASE, REFERENCE, {"torch": "2.13.0"})
    assert key == key_of(_CASE, dataclasses.replace(REFERENCE, summary="in other words"), {"torch": "2.13.0"})
    others = [
        key_of(dataclasses.replace(_CASE, cache=2048), REFERENCE, {"torch": "2.13.0"}),
        key_of(_CASE, TRANSFORMERS, {"torch": "2.13.0"}),
        key_of(_CASE, REFERENCE, {"torch": "2.14.0"}),
    ]
    assert len({key, *others}) == 4


def test_a_change_of_the_reference_makes_its_own_programs_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [key_of(_CASE, each, {}) for each in (REFERENCE, TRANSFORMERS, OPTIMUM)]
    changed = PACKAGE / "reference" / "exporter.py"
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path == changed))
    after = [key_of(_CASE, each, {}) for each in (REFERENCE, TRANSFORMERS, OPTIMUM)]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, True]


def test_a_missing_environment_is_reported_with_the_command_that_makes_it(tmp_path: Path) -> None:
    product = Store(tmp_path, tmp_path / "none" / "python").program(_CASE, OPTIMUM)
    assert product.path is None
    assert product.absent.startswith("not measured: ")
    assert "`tox -e optimum -- --version`" in product.absent


def _makes(monkeypatch: pytest.MonkeyPatch, script: str) -> list[str]:
    """Have a script make programs, given the request's path; returns what it was asked, call by call."""
    asked: list[str] = []

    def run(python: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        asked.append(module)
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    monkeypatch.setattr(programs_store, "run_module", run)
    return asked


def _answers(values: dict[str, Any]) -> str:
    """A script that answers with `values`."""
    return f"import json, sys; json.dump({values!r}, open(json.load(open(sys.argv[1]))['answer'], 'w'))"


def test_a_program_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"program_bytes": 1, "planned_bytes": 2, "seconds": 3.0, "peak_bytes": 4, "packages": {}}
    asked = _makes(monkeypatch, _answers(made))
    store = Store(tmp_path, tmp_path)
    first, second = store.program(_CASE, REFERENCE), store.program(_CASE, REFERENCE)
    assert first == second
    assert first.made is not None
    assert first.made.planned_bytes == 2
    assert len(asked) == 1


def test_an_exporter_that_refuses_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _makes(monkeypatch, _answers({"absent": "fails: ValueError: no"}))
    store = Store(tmp_path, tmp_path)
    assert [store.program(_CASE, REFERENCE).absent for _ in range(2)] == ["fails: ValueError: no"] * 2
    assert len(asked) == 1


def test_a_process_that_dies_is_reported_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _makes(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    store = Store(tmp_path, tmp_path)
    assert [store.program(_CASE, REFERENCE).absent for _ in range(2)] == [
        "fails: the process that made it ended with -9: no output"
    ] * 2
    assert len(asked) == 2
