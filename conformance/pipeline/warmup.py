"""Let torch and ExecuTorch do once, before processes are forked, what each process would have to do."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import transformers.generation.utils
import transformers.masking_utils  # noqa: F401 - like the line above, what the modules of all models import
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]  # it brings no types

from conformance.core.gc_tuning import freeze_gc
from conformance.pipeline import lowering
from conformance.pipeline.backends import Backend
from conformance.pipeline.store import sources_of


def warm_up(backends: Iterable[Backend]) -> None:
    """Take a program of one layer through exporting, and through lowering and emitting by each of `backends`.

    ExecuTorch traces the patterns that XNNPACK looks for (attention, upsampling) when it lowers its first program.
    That takes 3 to 4 s, beside the 8 to 12 s that a fixture's program takes otherwise, and each process would pay it.
    """
    # ExecuTorch's progress bars start a thread that watches them. A process forked while it holds its lock would hang.
    tqdm.monitor_interval = 0
    program = torch.export.export(nn.Linear(1, 1).eval(), (torch.zeros(1, 1),))
    for backend in backends:
        sources_of(backend)  # before somebody edits what was just imported
        lowering.emit(lowering.lower(copy.deepcopy(program), backend), backend)
    freeze_gc()
