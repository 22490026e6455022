"""Tune the garbage collector: pause it during imports, and freeze what they create."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

#: Allocations before the youngest generation is collected, and collections before the next generation is. An exported
#: program is many small objects that live long, and Python's default of 700 is soon reached: lowering takes 3 % less
#: time with these, for a few MiB.
_THRESHOLDS = (20_000, 10, 10)


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the collector, for imports: it takes a sixth of the time of importing torch and Transformers.

    Objects that exist at the end are frozen: they are never examined again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def freeze_gc() -> None:
    """Freeze the objects that exist now, and raise the thresholds: examining them repeatedly took 8 % of lowering."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
