"""From a model to the `.pte` file that ExecuTorch's LLM runner takes, by the reference exporter."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel

from conformance.core.contract import Mode
from conformance.core.files import atomic_write
from conformance.core.verdicts import NotRunError, Stage, at
from conformance.exporters.resolve import resolve
from conformance.pipeline import lowering, stages
from conformance.pipeline.backends import Backend
from conformance.pipeline.lowering import Artifact
from conformance.reference import runner_methods

#: What `export_for_runner` goes through, in order.
STEPS = ("exporting", "lowering", "emitting")


def export_for_runner(
    model: PreTrainedModel, backend: Backend, mode: Mode, announce: Callable[[str], None] = lambda step: None
) -> Artifact:
    """The model as a program that `TextLLMRunner` runs out of the box, metadata methods and all.

    Args:
        model: Its generation config asks for a static cache of one row, and says how long it is. Where the backend
            quantises, a copy of the model is quantised, and this one stays as it is.
        backend: One of `conformance.pipeline.backends.BACKENDS`.
        mode: `Mode.DYNAMIC` for prompts in chunks of any length, `Mode.DECODE` for one token a call.
        announce: Told each of `STEPS` when it begins.

    Returns:
        The program as the bytes of a `.pte` file, and what became of it on the way.

    Raises:
        NotRunError: The backend lacks a package, or cannot be given a model of one's own.
        StageError: A step failed; says which.
    """
    if backend.obstacle:
        raise NotRunError(backend.obstacle)
    if backend.requantise:
        raise NotRunError(f"{backend.name} is calibrated, and the suite has texts for fixtures only")
    for name, value in backend.environment:
        os.environ.setdefault(name, value)
    announce(STEPS[0])
    if backend.prepare:
        with at(Stage.BUILD):
            model = backend.prepare(model)
    program = stages.export(resolve("reference"), model, mode)
    methods = runner_methods(model, dynamic=mode is Mode.DYNAMIC)
    announce(STEPS[1])
    lowered = lowering.lower(program, backend, methods)
    announce(STEPS[2])
    return lowering.emit(lowered, backend)


def write_program(artifact: Artifact, path: Path) -> None:
    """Put the program at `path`, all of it or nothing."""
    atomic_write(path, artifact.program)
