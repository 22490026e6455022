"""From a model to a `.pte` file for ExecuTorch's LLM runner, with the reference exporter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel

from conformance.cli.quantised import refusal
from conformance.core.attention import PORTABLE
from conformance.core.call_shape import WHOLE, CallShape
from conformance.core.cells import Program
from conformance.core.contract import Mode
from conformance.core.exporter_names import REFERENCE
from conformance.core.files import atomic_write
from conformance.core.verdicts import NotRunError
from conformance.pipeline import lowering
from conformance.pipeline.artifact import Artifact
from conformance.pipeline.backends import Backend
from conformance.pipeline.builder import Builder
from conformance.pipeline.program_file import RECIPE
from conformance.pipeline.quantisation import quantisation_record
from conformance.records.run import QuantisationRecord

#: What `export_for_runner` goes through, in order.
STEPS = ("exporting", "lowering", "emitting")


def export_for_runner(
    model: PreTrainedModel,
    backend: Backend,
    mode: Mode,
    announce: Callable[[str], None] = lambda step: None,
    shape: CallShape = WHOLE,
    note: Callable[[QuantisationRecord], None] = lambda made: None,
    attention: str = PORTABLE,
) -> Artifact:
    """The model as a program that `TextLLMRunner` runs out of the box, metadata methods and all.

    Args:
        model: Its generation config asks for a static cache, and says how many rows and positions it has. Where the
            backend quantises, a copy of the model is quantised, and this one stays as it is.
        backend: One of `conformance.pipeline.backends.BACKENDS`.
        mode: `Mode.DYNAMIC` for prompts in chunks of any length, `Mode.DECODE` for one token a call.
        announce: Called with each of `STEPS` when it begins.
        shape: The longest call, and the logits of which tokens a call returns.
        note: Called with what was quantised, before anything is lowered, where the backend quantises.
        attention: One of `conformance.core.attention.ATTENTIONS`.

    Returns:
        The program as the bytes of a `.pte` file, with its partition and its memory.

    Raises:
        NotRunError: The backend lacks a package, has to be calibrated, or would quantise nothing; or ExecuTorch lacks
            the operators of custom attention.
        NotApplicableError: The backend is for custom attention, which does not fit the model.
        CellFailedError: A step failed; says which.
    """
    if backend.obstacle:
        raise NotRunError(backend.obstacle)
    if backend.requantise:
        raise NotRunError(f"{backend.name} is calibrated, and the suite has texts for fixtures only")
    builder = Builder(
        backends={backend.name: backend}, build=lambda _: model, shape=shape, attention=attention, single_use=True
    )
    built = builder.program(Program(model.config.model_type, REFERENCE, mode, backend.name))
    announce(STEPS[0])
    built.exported  # noqa: B018 - so that each step is announced
    if backend.quantisation is not None:
        made = quantisation_record(model, built.exported, backend.quantisation.group_size)
        if reason := refusal(made, backend):
            raise NotRunError(reason)
        note(made)
    announce(STEPS[1])
    lowered = lowering.lower(built.exported, backend, {**built.methods, RECIPE: backend.name})
    announce(STEPS[2])
    return lowering.emit(lowered, backend)


def write_program(artifact: Artifact, path: Path) -> None:
    """Put the program at `path`, all of it or nothing."""
    atomic_write(path, artifact.program)
