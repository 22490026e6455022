"""A backend whose lowered program something else than ExecuTorch's runtime runs, and TOSA, which is one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from conformance.core.verdicts import ClauseViolationError, NotApplicableError, StageError
from conformance.exporters.resolve import Exporter
from conformance.pipeline import lowering, stages
from conformance.pipeline.backends import BACKENDS, Backend
from conformance.pipeline.builder import Builder
from conformance.pipeline.store import Store
from conformance.reference import convert_and_export_with_cache
from tests.faults import lowerings
from tests.support.harness import judge

pytestmark = pytest.mark.torch


def _judge(clause: str, backend: Backend, **others: Any) -> None:
    backends = {backend.name: backend}
    judge(clause, "llama", convert_and_export_with_cache, backend=backend.name, backends=backends, **others)


@pytest.fixture
def _without_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(program: bytes) -> Any:
        raise AssertionError("the runtime was given a program")

    monkeypatch.setattr(stages, "load", load)


@pytest.mark.usefixtures("_without_runtime")
def test_program_is_interpreted_also_where_the_store_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emitted: list[bytes] = []

    def emit(*arguments: Any) -> Any:
        artifact = _emit(*arguments)
        emitted.append(artifact.program)
        return artifact

    _emit = lowering.emit
    monkeypatch.setattr(lowering, "emit", emit)
    for _ in range(2):  # the second builder finds the artifact in the store
        exporters = {"faulty": Exporter("faulty", convert_and_export_with_cache)}
        builder = Builder(exporters, {"interpreted": lowerings.INTERPRETED}, store=Store(tmp_path, 100))
        for clause in ("PAR-1", "PAR-11"):
            _judge(clause, lowerings.INTERPRETED, builder=builder)
    assert len(emitted) == 1


@pytest.mark.usefixtures("_without_runtime")
def test_wrong_delegates_are_caught() -> None:
    with pytest.raises(ClauseViolationError) as caught:
        _judge("PAR-1", lowerings.DOUBLES_DELEGATES)
    assert caught.value.signature == "execute:logits-differ"


def test_refused_delegates_are_a_failure_at_execute() -> None:
    with pytest.raises(StageError) as caught:
        _judge("PAR-1", lowerings.REFUSES_DELEGATES)
    assert caught.value.signature == "execute:RuntimeError:no delegate runs here"


@pytest.mark.parametrize("clause", ["RUN-1", "RUN-2", "RUN-3"])
def test_runner_does_not_apply(clause: str) -> None:
    with pytest.raises(NotApplicableError, match="torch runs interpreted"):
        _judge(clause, lowerings.INTERPRETED)


@pytest.fixture
def tosa_backend() -> Any:
    for package in ("ml_dtypes", "tosa", "tosa_reference_model"):
        pytest.importorskip(package, reason="`tox -e tests` installs tosa-tools")
    from executorch.backends.arm.tosa.backend import TOSABackend

    return TOSABackend


@pytest.mark.usefixtures("tosa_backend")
def test_reference_model_runs_tosa() -> None:
    _judge("PAR-1", BACKENDS["tosa"])


def test_faulty_tosa_is_caught(tosa_backend: Any) -> None:
    """Only the bytes of the delegates are wrong: what torch could run in their place is right."""
    with lowerings.faulty_delegates(tosa_backend), pytest.raises(ClauseViolationError) as caught:
        _judge("PAR-1", BACKENDS["tosa"])
    assert caught.value.signature == "execute:logits-differ"


@pytest.mark.usefixtures("tosa_backend")
def test_call_without_tosa_is_refused() -> None:
    """A program of which nothing was delegated would be judged by torch alone."""
    backend = dataclasses.replace(BACKENDS["tosa"], partitioners=list)
    with pytest.raises(StageError, match="never ran TOSABackend delegate"):
        _judge("PAR-1", backend)
