"""`python -m conformance doctor`: what is installed, what goes with what, and what is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table

from conformance.core.exporter_names import KNOWN
from conformance.core.paths import ROOT
from conformance.core.versions import (
    REQUIRED,
    TORCH_FOR_EXECUTORCH,
    TRANSFORMERS_FOR_REFERENCE,
    incompatible,
    unsupported,
    untested,
)
from conformance.pipeline.backends import BACKENDS
from conformance.records.environment import environment, versions

CONSTRAINTS = ROOT / "constraints.txt"
#: Loading takes 5 s, and several times that on a cold disk.
_LOAD_LIMIT_S = 180
#: What shows that native code fits the torch beside it: the runtime's library loads, and has kernels to offer.
_LOAD = "from executorch.runtime import Runtime; print(len(Runtime.get().operator_registry.operator_names))"
#: What tox.ini sets, and why a run without it may come to other programs or take longer.
_SETTINGS = {
    "PYTHONHASHSEED": "models of several kinds of layers may export as other programs in each process",
    "OMP_NUM_THREADS": "workers take each other's cores",
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found. `problems` make runs impossible or worthless; `notes` only have to be known."""

    installed: Mapping[str, str]
    pinned: Mapping[str, str]
    backends: Mapping[str, str]
    problems: Sequence[str]
    notes: Sequence[str]


def diagnose() -> Diagnosis:
    """Look at this environment. The runtime is loaded in a process of its own, which may die of it."""
    installed = versions()
    problems = incompatible()
    if "executorch" in installed and (told := _cannot_load()):
        problems.append(told)
    return Diagnosis(
        installed,
        pinned(CONSTRAINTS.read_text(encoding="utf-8")),
        {name: backend.obstacle for name, backend in BACKENDS.items()},
        problems,
        [*unsupported(KNOWN), *untested(), *_unset(os.environ)],
    )


def page(diagnosis: Diagnosis) -> RenderableType:
    """The diagnosis for a terminal, what is wrong at the end."""
    here = environment()
    return Group(
        f"Python {here.python}, {here.platform}\n",
        _packages(diagnosis),
        "",
        _pairs(diagnosis.installed),
        f"The reference needs transformers{TRANSFORMERS_FOR_REFERENCE}.\n",
        _backends(diagnosis.backends),
        "",
        *(f"note: {each}" for each in diagnosis.notes),
        *([f"wrong: {each}" for each in diagnosis.problems] or ["nothing is wrong"]),
    )


def show(diagnosis: Diagnosis) -> None:
    """Print it, as wide as the terminal is."""
    Console(highlight=False, markup=False).print(page(diagnosis), soft_wrap=True)


def pinned(constraints: str) -> dict[str, str]:
    """The versions that a constraints file pins, by the package's name in lower case."""
    found = re.findall(r"^([\w.-]+)==(\S+)$", constraints, re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def _packages(diagnosis: Diagnosis) -> Table:
    table = Table("package", "installed", "pinned by constraints.txt", box=None, pad_edge=False)
    for name in dict.fromkeys([*REQUIRED, *diagnosis.installed]):
        table.add_row(name, diagnosis.installed.get(name, "–"), diagnosis.pinned.get(name, "–"))
    return table


def _pairs(installed: Mapping[str, str]) -> Table:
    table = Table("ExecuTorch", "goes with torch", "", box=None, pad_edge=False)
    found = installed.get("executorch", "")
    for release, torch in TORCH_FOR_EXECUTORCH.items():
        table.add_row(release, torch, "installed" if f"{found}.".startswith(f"{release}.") else "")
    return table


def _backends(obstacles: Mapping[str, str]) -> Table:
    table = Table("backend", "here", box=None, pad_edge=False)
    for name, obstacle in obstacles.items():
        usual = "lowers and runs" if BACKENDS[name].runs else "lowers, and does not run"
        table.add_row(name, obstacle or usual)
    return table


def _cannot_load() -> str:
    """Why ExecuTorch's runtime does not load; empty if it does."""
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _LOAD],
            cwd=Path.home(),
            capture_output=True,
            text=True,
            timeout=_LOAD_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"ExecuTorch's runtime did not load within {_LOAD_LIMIT_S} s"
    if ended.returncode == 0 and ended.stdout.strip().isdigit():
        return ""
    said = [line for line in ended.stderr.splitlines() if line.strip()]
    how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit code {ended.returncode}"
    return f"ExecuTorch's runtime does not load ({how}): {said[-1] if said else 'it said nothing'}"


def _unset(environ: Mapping[str, str]) -> Iterator[str]:
    for name, effect in _SETTINGS.items():
        if name not in environ:
            yield f"{name} is not set, as tox sets it: {effect}"
