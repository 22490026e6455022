"""The stages, one function each: build, export, lower, emit, load. Executing is a step of a session.

Each names itself in whatever it raises (`StageError`), and none keeps anything: the workbench does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, to_edge_transform_and_lower
from executorch.runtime import Method, Runtime
from torch.export import Dim, ExportedProgram
from transformers import AutoConfig, PreTrainedModel

from conformance.contract import Mode
from conformance.discovery import registered
from conformance.models import BATCH_SIZE, MAX_CACHE_LEN, build_model, drafted_values, fixture_config, has_fixture
from conformance.pipeline.backends import Backend
from conformance.pipeline.partition import PartitionReport, partition_report
from conformance.subjects.resolve import Subject
from conformance.verdicts import NotApplicableError, Stage, at

#: Length of the example in dynamic mode; more than 1, since export would otherwise fix the length at 1.
_DYNAMIC_EXAMPLE_LENGTH = 3


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program in the edge dialect, with its delegates in place, and what partitioning did. Times are in seconds."""

    edge: EdgeProgramManager
    partition: PartitionReport
    seconds: float


@dataclass(frozen=True, slots=True)
class Artifact:
    """An ExecuTorch program, as the bytes of a `.pte` file, and how it came about. Times are in seconds."""

    program: bytes
    partition: PartitionReport
    lower_s: float
    emit_s: float


def build(architecture: str) -> PreTrainedModel:
    """The architecture's fixture model, or of one that the matrix lacks, a model of its published config made tiny.

    Raises:
        NotApplicableError: The installed Transformers does not have this architecture.
    """
    if architecture not in registered():
        raise NotApplicableError(f"not in transformers {transformers.__version__}")
    with at(Stage.BUILD):
        if has_fixture(architecture):
            return build_model(fixture_config(architecture))
        return build_model(AutoConfig.for_model(**drafted_values(architecture)))


def export(subject: Subject, model: PreTrainedModel, mode: Mode) -> ExportedProgram:
    """The subject's program for `model`, with example inputs of the suite's choice."""
    subject.require(mode)
    with at(Stage.EXPORT):
        if mode is Mode.DECODE:
            return subject.export(model, *example_inputs(1))
        seq = Dim("seq", min=1, max=MAX_CACHE_LEN)
        shapes = {"input_ids": {1: seq}, "cache_position": {0: seq}}
        return subject.export(model, *example_inputs(_DYNAMIC_EXAMPLE_LENGTH), dynamic_shapes=shapes)


def lower(program: ExportedProgram, backend: Backend) -> Lowered:
    """The program in the edge dialect, validity checks on, with the backend's delegates.

    ExecuTorch marks the exported program's own nodes while it lowers, so give each backend a program of its own.
    """
    with at(Stage.LOWER), torch.no_grad():
        start = time.monotonic()
        edge = to_edge_transform_and_lower(
            program,
            partitioner=backend.partitioners(),
            compile_config=EdgeCompileConfig(_check_ir_validity=True),
        )
        seconds = time.monotonic() - start
        return Lowered(edge, partition_report(edge, backend.partitioners()), seconds)


def emit(lowered: Lowered) -> Artifact:
    """The bytes of the program, memory planned and delegates serialised."""
    with at(Stage.EMIT), torch.no_grad():
        start = time.monotonic()
        program = bytes(lowered.edge.to_executorch().buffer)
        return Artifact(program, lowered.partition, lowered.seconds, time.monotonic() - start)


def load(program: bytes) -> Method:
    """The program's `forward` method, loaded into the runtime with caches of its own."""
    with at(Stage.LOAD):
        method: Any = Runtime.get().load_program(program).load_method("forward")
        if method is None:
            raise RuntimeError("the program has no method 'forward'")
        return method


def example_inputs(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, int64 [BATCH_SIZE, length], and cache position, int64 [length], from 0 on."""
    return torch.zeros((BATCH_SIZE, length), dtype=torch.long), torch.arange(length)
