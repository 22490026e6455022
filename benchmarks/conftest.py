"""The suite's settings of pytest, and the options of benchmarks/programs, which pytest has to know from the start."""

from __future__ import annotations

import pytest

from benchmarks.programs.cases import CACHES, DTYPES, SHAPES, SIDES, Case, selected, sides_named
from benchmarks.programs.store import OPTIMUM_PYTHON
from conformance.core.contract import Mode
from conformance.core.paths import ROOT
from conformance.runner.pytest_settings import pytest_configure

__all__ = ["pytest_addoption", "pytest_configure", "pytest_sessionstart"]

#: Where the results of benchmarks/programs are written.
RESULTS = "build/benchmarks/programs.json"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which programs are measured. A list is separated by commas, and replaces what the selection has."""
    group = parser.getgroup("benchmarks of programs")
    group.addoption("--full", action="store_true", help="all shapes, dtypes, caches and modes: hours, the first time")
    lists = {"shapes": SHAPES, "dtypes": DTYPES, "caches": CACHES, "modes": Mode, "sides": SIDES}
    for name, known in lists.items():
        group.addoption(f"--{name}", metavar="A,B", help=f"of {', '.join(map(str, known))}")
    group.addoption(
        "--optimum-python",
        default=str(OPTIMUM_PYTHON),
        metavar="PATH",
        help="the Python of an environment with optimum-executorch (default: %(default)s)",
    )
    group.addoption("--programs-json", default=RESULTS, metavar="PATH", help="the results (default: %(default)s)")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say at once which name is unknown, and remove the results of an earlier run, which would be taken for this one's.

    Raises:
        pytest.UsageError: A name is unknown.
    """
    option = session.config.option
    try:
        cases_of(session.config)
        sides_named(option.sides)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    for path in filter(None, (option.programs_json, getattr(option, "benchmark_json", None))):
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        if not option.collectonly:
            (ROOT / path).unlink(missing_ok=True)


def cases_of(config: pytest.Config) -> list[Case]:
    """What the options ask for.

    Raises:
        ValueError: A name is unknown.
    """
    given = {name: config.getoption(f"--{name}") for name in ("shapes", "dtypes", "caches", "modes")}
    return selected(full=config.getoption("--full"), **given)
