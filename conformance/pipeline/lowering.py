"""Lowering and emitting: from an exported program to the bytes of an ExecuTorch program, and what can be said of both.

The artifact store goes by its text: whatever changes here is lowered anew. It, and what it imports, are all that needs
`executorch.exir`, which takes 2 s to import beside torch and Transformers: what does not lower does without.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from executorch.exir import EdgeProgramManager, to_edge_transform_and_lower
from torch.export import ExportedProgram

from conformance.core.verdicts import Stage, at
from conformance.pipeline.artifact import Artifact, PartitionReport
from conformance.pipeline.backends import Backend
from conformance.pipeline.contents import held_tensors
from conformance.pipeline.emission import emission_report
from conformance.pipeline.partition import partition_report, stamp


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program in the edge dialect, with its delegates in place, and what partitioning did. Times are in seconds.

    `held` are the tensors of the exported program, by name.
    """

    edge: EdgeProgramManager
    partition: PartitionReport
    held: Mapping[str, torch.Tensor]
    seconds: float


def lower(program: ExportedProgram, backend: Backend, methods: Mapping[str, Any] | None = None) -> Lowered:
    """The program in the edge dialect, validity checks on, with a user's pass applied and the backend's delegates.

    `methods` are constant methods that go with it, by name, which a runner reads.

    ExecuTorch marks the exported program's own nodes while it lowers, so each backend needs a copy of the program.
    """
    with at(Stage.LOWER), torch.no_grad():
        held = held_tensors(program)
        start = time.monotonic()
        edge = to_edge_transform_and_lower(
            program,
            transform_passes=[stamp, *backend.passes()],
            partitioner=backend.partitioners(),
            compile_config=backend.edge(),
            constant_methods=dict(methods or {}),
        )
        seconds = time.monotonic() - start
        return Lowered(edge, partition_report(edge, backend.partitioners(), backend.declares), held, seconds)


def emit(lowered: Lowered, backend: Backend) -> Artifact:
    """The bytes of the program, memory planned and delegates serialised."""
    with at(Stage.EMIT), torch.no_grad():
        start = time.monotonic()
        emitted = lowered.edge.to_executorch(backend.emission())
        program = bytes(emitted.buffer)
        seconds = time.monotonic() - start
        report = emission_report(lowered.edge, emitted, lowered.held)
        return Artifact(program, lowered.partition, report, lowered.seconds, seconds)
