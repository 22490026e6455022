"""How many scripts a cell gets."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from conformance.core.cells import EXPORTED, Cell
from conformance.core.contract import Mode
from conformance.core.paths import ROOT
from conformance.runner.options import Options, other_scripts, read_options
from tests.report.samples import run

pytestmark = pytest.mark.unit

_EXPORTED_CELL = Cell("llama", "reference", EXPORTED, Mode.DECODE, "PAR-2")
_XNNPACK_CELL = dataclasses.replace(_EXPORTED_CELL, backend="xnnpack")

#: Where a run writes, which pytest fills in.
_PATHS = {"--output": "run.json", "--failures-dir": "failures", "--cache-dir": "store"}


def _options(**given: str | int) -> Options:
    named = {
        **_PATHS,
        "--arch": "llama",
        "--exporter": "reference",
        **{f"--{name.replace('_', '-')}": value for name, value in given.items()},
    }
    config: Any = type("Config", (), {"getoption": lambda _, key, default=None: named.get(key, default)})
    config.rootpath = ROOT
    return read_options(config())


def test_exported_programs_get_a_fifth_where_their_runtime_is_judged() -> None:
    options = _options(backend="xnnpack", max_examples=40)
    assert (options.examples_of(_EXPORTED_CELL), options.examples_of(_XNNPACK_CELL)) == (8, 40)


@pytest.mark.parametrize("examples", [3, 5, 20])
def test_exported_programs_get_five_scripts_at_least(examples: int) -> None:
    options = _options(backend="xnnpack", max_examples=examples)
    assert options.examples_of(_EXPORTED_CELL) == min(examples, 5)


@pytest.mark.parametrize("backend", ["exported", "vulkan", "exported,coreml"])
def test_exported_programs_get_all_where_nothing_runs(backend: str) -> None:
    assert _options(backend=backend, max_examples=20).examples_of(_EXPORTED_CELL) == 20


def test_fewer_scripts_of_an_earlier_run_are_other_scripts() -> None:
    earlier = run().run
    shallow = dataclasses.replace(earlier, options={**earlier.options, "backend": "xnnpack", "examples": 25})
    deep = dataclasses.replace(shallow, options={**shallow.options, "backend": "exported"})
    assert not other_scripts(shallow, _options(backend="xnnpack"))
    assert "one script in 5" in other_scripts(shallow, _options(backend="exported"))
    both = other_scripts(dataclasses.replace(shallow, seed=7), _options(backend="exported"))
    assert "one script in 5" in both
    assert "--hypothesis-seed was 7 there" in both
    assert not other_scripts(deep, _options(backend="exported"))
    assert not other_scripts(deep, _options(backend="xnnpack")), "more than are asked for"
