"""`conformance doctor`: what is installed, which versions need which, and what is wrong."""

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
from conformance.core.time_scale import scaled
from conformance.core.versions import (
    REQUIRED,
    TORCH_FOR_EXECUTORCH,
    TRANSFORMERS_FOR_REFERENCE,
    incompatible,
    unsupported,
    untested,
)
from conformance.pipeline.backends import BACKENDS, Backend, backend_called
from conformance.pipeline.backends.named import recipe_names
from conformance.process.fork import ending
from conformance.records.environment import environment, versions

CONSTRAINTS = ROOT / "constraints.txt"
#: Loading takes 5 s, and several times that on a cold disk.
_LOAD_LIMIT_S = 180
#: Shows that native code fits the installed torch: the runtime's library loads, and has kernels.
_LOAD = "from executorch.runtime import Runtime; print(len(Runtime.get().operator_registry.operator_names))"
#: What `conformance run` and tox.ini set, and the effect on a run without it.
_SETTINGS = {
    "PYTHONHASHSEED": "models with several kinds of layers may export as a different program in each process",
    "OMP_NUM_THREADS": "workers compete for cores",
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The state of an environment. `problems` make runs impossible or worthless; `notes` do not."""

    installed: Mapping[str, str]
    pinned: Mapping[str, str]
    backends: Mapping[str, str]
    problems: Sequence[str]
    notes: Sequence[str]


def diagnose() -> Diagnosis:
    """Examine this environment. The runtime is loaded in a child process, which may crash."""
    installed = versions()
    problems = incompatible()
    if "executorch" in installed and (problem := _load_problem()):
        problems.append(problem)
    return Diagnosis(
        installed,
        pinned(CONSTRAINTS.read_text(encoding="utf-8")),
        {
            **{name: backend.obstacle or _runs(backend) for name, backend in BACKENDS.items()},
            **{name: _runs(backend_called(name)) for name in recipe_names()},
        },
        problems,
        [*unsupported(KNOWN), *untested(), *_unset(os.environ)],
    )


def page(diagnosis: Diagnosis) -> RenderableType:
    """The diagnosis for a terminal, problems at the end."""
    here = environment()
    return Group(
        f"Python {here.python}, {here.platform}\n",
        _packages(diagnosis),
        "",
        _pairs(diagnosis.installed),
        f"The reference needs transformers{TRANSFORMERS_FOR_REFERENCE}.\n",
        _backends(diagnosis.backends),
        "",
        *(f"note: {note}" for note in diagnosis.notes),
        *([f"problem: {problem}" for problem in diagnosis.problems] or ["no problems found"]),
    )


def show(diagnosis: Diagnosis) -> None:
    """Print the diagnosis, as wide as the terminal."""
    Console(highlight=False, markup=False).print(page(diagnosis), soft_wrap=True)


def pinned(constraints: str) -> dict[str, str]:
    """The versions that a constraints file pins, by the package's name in lower case."""
    pins = re.findall(r"^([\w.-]+)==(\S+)$", constraints, re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in pins}


def _packages(diagnosis: Diagnosis) -> Table:
    table = Table("package", "installed", "pinned by constraints.txt", box=None, pad_edge=False)
    for name in dict.fromkeys([*REQUIRED, *diagnosis.installed]):
        table.add_row(name, diagnosis.installed.get(name, "–"), diagnosis.pinned.get(name, "–"))
    return table


def _pairs(installed: Mapping[str, str]) -> Table:
    table = Table("ExecuTorch", "needs torch", "", box=None, pad_edge=False)
    executorch = installed.get("executorch", "")
    for release, torch in TORCH_FOR_EXECUTORCH.items():
        table.add_row(release, torch, "installed" if f"{executorch}.".startswith(f"{release}.") else "")
    return table


def _backends(found: Mapping[str, str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("backend", overflow="fold", no_wrap=True)  # to be copied whole
    table.add_column("here")
    for name, here in found.items():
        table.add_row(name, here)
    return table


def _runs(backend: Backend) -> str:
    return "lowers and runs" if backend.runs else "lowers only"


def _load_problem() -> str:
    """Why ExecuTorch's runtime does not load; empty if it does."""
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _LOAD],
            cwd=Path.home(),
            capture_output=True,
            text=True,
            timeout=scaled(_LOAD_LIMIT_S),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"ExecuTorch's runtime did not load within {scaled(_LOAD_LIMIT_S)} s (busy machine?)"
    if ended.returncode == 0 and ended.stdout.strip().isdigit():
        return ""
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    return f"ExecuTorch's runtime does not load ({ending(ended.returncode)}): {lines[-1] if lines else 'no output'}"


def _unset(environ: Mapping[str, str]) -> Iterator[str]:
    for name, effect in _SETTINGS.items():
        if name not in environ:
            yield f"{name} is not set: `conformance run` and tox set it, and with pytest alone {effect}"
