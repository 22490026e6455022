"""Backends: how a program is lowered, as data. Imports no torch; a backend's own package is imported when it lowers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conformance.cells import BackendTraits


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to lower a program and run it.

    Args:
        name: As in cells and on the command line.
        partitioners: Makes ExecuTorch partitioners, in the order they are asked; none for portable kernels only.
        tolerance: The largest error of a logit that still counts as equal, as a share of the logits' scale.
        delegating: Whether it has partitioners.
    """

    name: str
    partitioners: Callable[[], list[Any]]
    tolerance: float
    delegating: bool

    @property
    def traits(self) -> BackendTraits:
        """What planning needs to know."""
        return BackendTraits(self.name, self.delegating)


#: Share of the logits' scale. Float32 agrees to 1e-7 to 3e-6 over the core architectures, on the exported program and
#: on both backends; the smallest real fault seen (an exact GELU for a tanh one) is 2e-4 to 4e-4.
FLOAT32_TOLERANCE = 1e-5


def _no_partitioners() -> list[Any]:
    return []


def _xnnpack_partitioners() -> list[Any]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return [XnnpackPartitioner()]


PORTABLE = Backend("portable", _no_partitioners, FLOAT32_TOLERANCE, delegating=False)
XNNPACK = Backend("xnnpack", _xnnpack_partitioners, FLOAT32_TOLERANCE, delegating=True)

BACKENDS = {backend.name: backend for backend in (PORTABLE, XNNPACK)}
