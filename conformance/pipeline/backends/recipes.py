"""Steps that recipes share. The artifact store goes by this module's text: whatever changes here is lowered anew."""

from __future__ import annotations

from typing import Any


def no_partitioners() -> list[Any]:
    """For portable kernels only."""
    return []


def no_passes() -> list[Any]:
    """Beside the suite's own."""
    return []


def checked_edge() -> Any:
    """The edge dialect with IR validity checks on."""
    from executorch.exir import EdgeCompileConfig

    return EdgeCompileConfig(_check_ir_validity=True)


def in_place_emission() -> Any:
    """ExecuTorch's settings for emission, with cache updates in place.

    Its default writes each update into a copy of the whole cache and copies that back: twice the cache per token in
    time, and another cache in planned memory (30144 bytes in place of 22160 for the llama fixture).

    Views have to stay copies with that. One that is taken of the result of an update in place, and is not copied, reads
    memory that nothing has written: memory planning gives the update the cache's specification
    (https://github.com/pytorch/executorch/pull/19482) after the view has taken the update's own for its base
    (deepseek_v3 on portable kernels is off by 0.9 of the logits' scale).
    """
    from executorch.exir import ExecutorchBackendConfig

    return ExecutorchBackendConfig(run_reinplace_pass=True, remove_view_copy=False)
