"""Exporters that take the process down that they run in, each in a way of its own. They can be named as subjects."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, NoReturn

from torch import Tensor
from torch.export import ExportedProgram
from transformers import PreTrainedModel

LAST_WORDS = "terminate called without an active exception"


def segfaults(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Reads from address 0, as a bad kernel does."""
    ctypes.string_at(0)
    raise AssertionError("unreachable")


def aborts(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> NoReturn:
    """Says something and aborts, as a failed check in C++ does."""
    os.write(2, f"{LAST_WORDS}\n".encode())
    os.abort()


def exits(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> NoReturn:
    """Ends the process at once, and leaves no trace."""
    os._exit(3)


def leaves(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> NoReturn:
    """Asks Python to end, which can be refused."""
    sys.exit(0)
