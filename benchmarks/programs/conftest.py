"""Which cases are measured, and where their programs and results are kept."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.conftest import cases_of
from benchmarks.programs.cases import Side, sides_named
from benchmarks.programs.results import SCHEMA_VERSION, Results, Row, write
from benchmarks.programs.store import Store
from benchmarks.programs.system import packages
from conformance.core.paths import ROOT
from conformance.records.environment import commit, environment

_PROGRAMS = ROOT / "build" / "benchmarks" / "programs"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case."""
    if "case" in metafunc.fixturenames:
        cases = cases_of(metafunc.config)
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])


@pytest.fixture(scope="session")
def sides(pytestconfig: pytest.Config) -> tuple[Side, ...]:
    """Whose programs are compared."""
    return sides_named(pytestconfig.getoption("--sides"))


@pytest.fixture(scope="session")
def store(pytestconfig: pytest.Config) -> Store:
    """Where programs are made and kept."""
    return Store(_PROGRAMS, ROOT / Path(pytestconfig.getoption("--optimum-python")))


@pytest.fixture(scope="session")
def keep(pytestconfig: pytest.Config) -> Callable[[Row], None]:
    """Adds a row to the results, which are written after each: a run that is interrupted has those that it measured."""
    path, rows = ROOT / Path(pytestconfig.getoption("--programs-json")), []
    machine = environment()

    def add(row: Row) -> None:
        rows.append(row)
        results = Results(
            schema_version=SCHEMA_VERSION,
            cpu=machine.cpu,
            platform=machine.platform,
            python=platform.python_version(),
            packages=packages(),
            commit=commit(ROOT),
            rows=rows,
        )
        write(path, results)

    return add
