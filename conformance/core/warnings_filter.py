"""Silence warnings of torch, torchao and ExecuTorch in commands."""

from __future__ import annotations

import logging
import os
import warnings

#: They warn of CUDA libraries that a build for CPUs does not load, and of enums that are registered twice.
_NOISY_LOGGERS = ("torchao", "torch.utils._pytree")


def silence_third_party() -> None:
    """Silence what a user cannot act on, as `pytest_settings` does for the suite. Call it before importing torch."""
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings("ignore", "Mutation on a buffer in the model", UserWarning)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
