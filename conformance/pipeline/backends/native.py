"""ExecuTorch's own backend of that name: lowered here. No wheel has its runtime."""

from __future__ import annotations

from functools import cache
from typing import Any

from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend


def partitioners() -> list[Any]:
    """The partitioner, with weights inside the program; by default they are for a file of their own."""
    from executorch.backends.native.partitioner import NativePartitioner

    return [NativePartitioner(external_constants_tag=None)]


def declares(operator: str) -> bool:
    """Whether it is a core operator of ATen, a view as a copy, or one of the partitioner's own list."""
    return operator in _listed()


@cache
def _listed() -> frozenset[str]:
    import torch
    from executorch.backends.native.partitioner import NativeSupportedOperators

    taken = {str(overload) for overload in NativeSupportedOperators._NON_CORE}
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        operator, _, overload = rest.partition(".")
        packet = getattr(getattr(torch.ops, namespace), operator, None) if namespace == "aten" else None
        found = getattr(packet, overload or "default", None)
        if found is not None and {torch.Tag.core, torch.Tag.view_copy} & set(found.tags):
            taken.add(str(found))
    return frozenset(name.removeprefix("aten.") for name in taken)


NATIVE = Backend(
    "native",
    partitioners,
    FLOAT32_TOLERANCE,
    delegating=True,
    summary="ExecuTorch's native backend, which keeps the cache as its own state",
    device="CPUs, by ExecuTorch's native delegate",
    runs=False,
    owns_state=True,
    declares=declares,
)
