"""ExecuTorch's runtime in this process, without the rest of ExecuTorch."""

from __future__ import annotations

import functools
import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from executorch.runtime import Runtime


@functools.cache
def local_runtime() -> Runtime:
    """`executorch.runtime.Runtime.get()`, imported without `executorch.exir`.

    The runtime imports all of that for a class of warnings, `exir._warnings`: 6 of the 8 s that a driver takes to start
    (ExecuTorch 1.5.1). Only what lowers has a use for it.
    """
    spec = importlib.util.find_spec("executorch.exir")
    assert spec is not None
    placed = sys.modules.setdefault("executorch.exir", importlib.util.module_from_spec(spec))
    try:
        from executorch.runtime import Runtime
    finally:
        if not hasattr(placed, "EdgeProgramManager"):  # its `__init__` was not executed
            del sys.modules["executorch.exir"]
    return Runtime.get()
