"""Let torch and ExecuTorch do once, before processes are forked, what each process would have to do."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable

import torch
import transformers.generation.utils
import transformers.masking_utils  # noqa: F401 - like the line above, what the modules of all models import
from torch import nn
from torch.export import ExportedProgram
from tqdm import tqdm  # type: ignore[import-untyped]  # it brings no types

from conformance.core.gc_tuning import freeze_gc, gc_paused
from conformance.core.verdicts import NotRunError
from conformance.decoding.llm_runner import import_llm_runner
from conformance.decoding.local_runtime import local_runtime
from conformance.pipeline.backends import Backend
from conformance.pipeline.store import sources_of


def warm_up_export() -> None:
    """Take a program of one layer through exporting."""
    # ExecuTorch's progress bars start a thread that watches them. A process forked while it holds its lock would hang.
    tqdm.monitor_interval = 0
    _small_program()
    freeze_gc()


def warm_up_runtime() -> None:
    """Load ExecuTorch's runtime, and its LLM runner if it has one."""
    local_runtime()
    with contextlib.suppress(NotRunError):  # RUN-2 says so
        import_llm_runner()
    freeze_gc()


def warm_up_lowering(backends: Iterable[Backend]) -> None:
    """Import what lowers, and take a program of one layer through lowering and emitting by each of `backends`.

    The imports take 2 s beside those of torch and Transformers. ExecuTorch traces the patterns that XNNPACK looks for
    (attention, upsampling) when it lowers its first program: 3 s, beside the 8 to 12 s that a fixture's program takes
    otherwise. Each process would pay both, and one whose programs are in the artifact store need not.
    """
    with gc_paused():
        from conformance.pipeline.lowering import emit, lower
    program = _small_program()
    for backend in backends:
        sources_of(backend)  # before somebody edits what was just imported
        emit(lower(copy.deepcopy(program), backend), backend)
    freeze_gc()


def _small_program() -> ExportedProgram:
    return torch.export.export(nn.Linear(1, 1).eval(), (torch.zeros(1, 1),))
