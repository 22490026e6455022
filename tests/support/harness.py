"""Judge one cell without pytest's collection."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from conformance.checks.case import Case
from conformance.checks.registry import checks
from conformance.core.cells import EAGER, EXPORTED, Cell
from conformance.core.contract import Mode
from conformance.core.paths import PARTITIONS, ROOT
from conformance.core.time_scale import scaled
from conformance.exporters.resolve import Exporter
from conformance.matrix.schema import load_matrix
from conformance.models.fixtures import build_model, fixture_config
from conformance.pipeline.backends import BACKENDS, Backend
from conformance.pipeline.builder import Builder
from conformance.pipeline.stages import build
from tests.support.warm import warm_module

#: Read once: a third of the time that most faults took was reading it, twice.
_matrix = functools.cache(load_matrix)
#: Few are enough: every fault here shows in a pinned script or in almost any generated one.
EXAMPLES = 5


def judge(
    clause: str,
    architecture: str,
    export: Callable[..., Any] | Exporter | None = None,
    *,
    mode: Mode = Mode.DECODE,
    backend: str = EXPORTED,
    backends: Mapping[str, Backend] = BACKENDS,
    make_model: Callable[[str], Any] = build,
    baselines: Path = PARTITIONS,
    shrink: bool = False,
    is_checkpoint: bool = False,
    builder: Builder | None = None,
) -> Case:
    """Run one clause's check on one exporter; raises what the check raises.

    With the `builder` of a case before, it is of the same exporter, model and backends, and nothing is built again.
    """
    exporter = export if isinstance(export, Exporter) or export is None else Exporter("faulty", export)
    if exporter is None:
        cell = Cell(architecture, None, EAGER, None, clause)
    else:
        cell = Cell(architecture, exporter.name, backend, mode, clause)
    row = _matrix().row(architecture)
    assert row is not None
    case = Case(
        cell,
        builder or Builder({exporter.name: exporter} if exporter else {}, backends, make_model),
        EXAMPLES,
        caches=row.caches,
        overrides=_matrix().overrides(architecture),
        baselines=baselines,
        shrink=shrink,
        is_checkpoint=is_checkpoint,
    )
    checks()[clause](case)
    return case


def one_layer(architecture: str) -> PreTrainedModel:
    """The fixture with its first layer alone, for faults of a backend that any layer shows: half as long to lower."""
    config = fixture_config(architecture)
    config.num_hidden_layers = 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    return build_model(config)


def python_module(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`python -m` with these arguments, in a checkout of the suite."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=scaled(300))


def copied_suite(directory: Path) -> Path:
    """A copy of the suite, which a test may change."""
    for name in ("conformance", "fixtures", "known_failures"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("models_matrix.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, directory)
    return directory


def suite(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A run of the suite in one process, if no other number of workers is given: a warm one, unless it is of a copy."""
    start = warm_module if cwd == ROOT else functools.partial(python_module, cwd=cwd)
    workers = () if any(argument.startswith("-n") for argument in arguments) else ("-n0",)
    return start("pytest", "conformance", *workers, *arguments)
