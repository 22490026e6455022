"""The builder builds each part once, keeps failures, and lets go of an architecture when asked for another."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from transformers import PreTrainedModel

from conformance.core.cells import EXPORTED, Cell, Program
from conformance.core.contract import Mode
from conformance.core.verdicts import CellFailedError, NotApplicableError, Stage, StageError
from conformance.exporters.resolve import Exporter
from conformance.pipeline import stages
from conformance.pipeline.builder import Builder
from conformance.reference import convert_and_export_with_cache

pytestmark = pytest.mark.torch

PROGRAM = Program("llama", "mine", Mode.DECODE, "portable")


def _builder(**options: Any) -> Builder:
    return Builder({"mine": Exporter("mine", convert_and_export_with_cache)}, **options)


def _depth(error: BaseException) -> int:
    return sum(1 for _ in _frames(error))


def _frames(error: BaseException) -> Iterator[object]:
    trace = error.__traceback__
    while trace is not None:
        yield trace
        trace = trace.tb_next


@pytest.mark.parametrize(
    "make", [lambda: StageError(Stage.BUILD, ValueError("no")), lambda: NotApplicableError("not here")]
)
def test_failure_is_kept_and_its_traceback_does_not_grow(make: Callable[[], Exception]) -> None:
    calls: list[str] = []

    def build(name: str) -> PreTrainedModel:
        calls.append(name)
        raise make()

    built = _builder(build=build).program(PROGRAM)
    caught = []
    for _ in range(3):
        with pytest.raises((CellFailedError, NotApplicableError)) as failure:
            _ = built.exported
        caught.append((failure.value, _depth(failure.value)))
    assert calls == ["llama"]
    assert caught[0] == caught[1] == caught[2]


def test_asking_for_a_program_builds_nothing() -> None:
    def build(name: str) -> PreTrainedModel:
        raise AssertionError(name)

    built = _builder(build=build).program(PROGRAM)
    assert built.evidence == {}
    assert built.backend is not None


def test_evidence_is_what_has_been_built() -> None:
    built = _builder().program(PROGRAM)
    assert built.architecture.cache_length == 32
    assert set(built.evidence) == {"weights.pt"}
    assert built.exported.graph_module is not None
    assert set(built.evidence) == {"weights.pt", "program.pt2"}
    assert built.evidence["program.pt2"] is built.evidence["program.pt2"]
    assert built.artifact.program == built.evidence["program.pte"]


def test_failed_export_leaves_the_model_as_evidence() -> None:
    def export(*_: object, **__: object) -> None:
        raise ValueError("no")

    built = Builder({"mine": Exporter("mine", export)}).program(PROGRAM)  # type: ignore[arg-type]  # it only raises
    with pytest.raises(StageError):
        _ = built.exported
    assert set(built.evidence) == {"weights.pt"}


def test_backends_share_the_exported_program_of_the_fixture() -> None:
    builder = _builder()
    exported = builder.program(Program("llama", "mine", Mode.DECODE)).exported
    assert builder.program(PROGRAM).exported is exported
    assert Cell("llama", "mine", EXPORTED, Mode.DECODE, "PAR-1").program == Program("llama", "mine", Mode.DECODE)


def test_another_architecture_lets_go_even_of_failures() -> None:
    models: list[weakref.ref[PreTrainedModel]] = []

    def build(name: str) -> PreTrainedModel:
        model = stages.build(name)
        models.append(weakref.ref(model))
        return model

    def export(model: PreTrainedModel, *_: object, **__: object) -> None:
        raise ValueError(type(model).__name__)

    builder = Builder({"mine": Exporter("mine", export)}, build=build)  # type: ignore[arg-type]  # it only raises
    with pytest.raises(StageError):
        _ = builder.program(PROGRAM).exported
    gc.collect()
    assert models[0]() is not None
    gc.disable()  # nothing waits for the collector, which runs are tuned to call seldom
    try:
        builder.architecture("gpt2")
        assert models[0]() is None
    finally:
        gc.enable()


def test_single_use_exports_the_model_itself() -> None:
    built = _builder(single_use=True).program(PROGRAM)
    assert built.architecture.model_to_export() is built.architecture.model
    assert built.lower().partition.undelegated == _builder().program(PROGRAM).lower().partition.undelegated
