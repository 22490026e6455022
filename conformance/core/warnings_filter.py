"""Commands keep to what was asked: torch, torchao and ExecuTorch have something to say at each program."""

from __future__ import annotations

import logging
import os
import warnings

#: Of CUDA libraries that a build for CPUs does not load, and of enums that are registered twice.
_TALKATIVE = ("torchao", "torch.utils._pytree")


def silence_third_party() -> None:
    """Leave out what nobody can act on, as pyproject.toml has it for the suite. Call it before torch is imported."""
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings("ignore", "Mutation on a buffer in the model", UserWarning)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
