"""Programs, each made once: kept by what they are made of, so that a second run only times them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.programs.cases import Case, Side
from benchmarks.programs.results import Made, made_of
from benchmarks.programs.system import packages
from conformance.core.paths import PACKAGE, ROOT
from conformance.core.text import one_line

#: Where tox has the Python that optimum-executorch is installed for, and the command that installs it there.
OPTIMUM_PYTHON = Path(".tox/optimum/bin/python")
_INSTALL = "tox -e optimum -- --version"
#: Fields of a side that have no part in its program.
_NOT_MADE_BY = ("summary", "scales")
#: Characters shown of what a process printed last.
_SHOWN = 240


@dataclass(frozen=True, slots=True)
class Product:
    """A program, or why there is none."""

    path: Path | None = None
    made: Made | None = None
    absent: str = ""

    def as_values(self) -> tuple[str, dict[str, Any]]:
        """Path and making, for another process."""
        assert self.path is not None
        assert self.made is not None
        return str(self.path.resolve()), dataclasses.asdict(self.made)


@dataclass(frozen=True, slots=True)
class Store:
    """Makes programs and keeps them.

    Args:
        folder: Where they are kept.
        optimum_python: The Python of optimum-executorch's environment.
    """

    folder: Path
    optimum_python: Path

    def program(self, case: Case, side: Side) -> Product:
        """The side's program for the case, made unless it is there already.

        One that could not be made is not tried again while nothing that it is made of has changed.
        """
        python = self.optimum_python if side.apart else Path(sys.executable)
        if not python.exists():
            return Product(absent=f"not measured: {python} is missing; `{_INSTALL}` installs it")
        key = key_of(case, side, _packages_of(python))
        path, answer = (self.folder.resolve() / f"{key}{end}" for end in (".pte", ".json"))
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(answer.with_suffix(".lock")):
            problem = "" if answer.exists() else self._make(python, case, side, path, answer)
        if problem:
            return Product(absent=problem)
        outcome = json.loads(answer.read_text(encoding="utf-8"))
        if "absent" in outcome:
            return Product(absent=outcome["absent"])
        return Product(path, made_of(outcome))

    def _make(self, python: Path, case: Case, side: Side, path: Path, answer: Path) -> str:
        """Make it; returns what is wrong if the process died without an answer."""
        request = answer.with_suffix(".request")
        values = {"case": case.as_values(), "side": dataclasses.asdict(side), "program": str(path)}
        request.write_text(json.dumps({**values, "answer": str(answer)}), encoding="utf-8")
        try:
            ended = run_module(python, "benchmarks.programs.making", str(request))
        finally:
            request.unlink()
        if answer.exists():
            return ""
        path.unlink(missing_ok=True)
        last = (ended.stderr.strip().splitlines() or ["no output"])[-1]
        return f"fails: the process that made it ended with {ended.returncode}: {one_line(last, _SHOWN)}"


def key_of(case: Case, side: Side, versions: dict[str, str]) -> str:
    """What the program depends on, as a name: the model, the recipe, the packages, and our code that makes it."""
    recipe = {name: value for name, value in dataclasses.asdict(side).items() if name not in _NOT_MADE_BY}
    outcome = json.dumps([case.as_values(), recipe, versions], sort_keys=True)
    held = hashlib.sha256(outcome.encode())
    for file in _sources(case, side):
        held.update(file.read_bytes())
    return f"{case.name}-{side.name}-{held.hexdigest()[:16]}"


def run_module(python: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module of this checkout, with one thread."""
    settings = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(python), "-m", module, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, errors="replace", check=False
    )


def _sources(case: Case, side: Side) -> Iterator[Path]:
    """Our files that make a program: those of the reference and of the recipes, where they take part."""
    yield Path(__file__).with_name("making.py")
    yield PACKAGE / "models" / "fixtures.py"
    quantised = side.exporter is not None and case.dtype == "8da4w"
    if side.exporter == "reference":
        yield from sorted((PACKAGE / "reference").rglob("*.py"))
    if quantised or (side.exporter and not side.as_documented):
        yield from sorted((PACKAGE / "pipeline" / "backends").rglob("*.py"))
    if quantised:
        yield PACKAGE / "pipeline" / "quantisable.py"


@functools.cache
def _packages_of(python: Path) -> dict[str, str]:
    if python == Path(sys.executable):
        return packages()
    ended = run_module(python, "benchmarks.programs.system")
    if ended.returncode:
        raise OSError(f"{python} does not run: {one_line(ended.stderr, _SHOWN)}")
    versions: dict[str, Any] = json.loads(ended.stdout)
    return versions
