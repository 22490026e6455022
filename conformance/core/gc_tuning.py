"""Garbage: where Python looks for it, and how often. Modules and what they made when imported are no place to look."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

#: New objects, and younger collections, before the next. An exported program is many small objects that live long, and
#: Python's usual 700 are soon there: lowering takes 3 % less so, for a few MiB.
_THRESHOLDS = (20_000, 10, 10)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """A context for imports, in which nobody looks: in those of torch and Transformers, that takes a sixth of the time.

    What is there when it ends stays, and is not looked through again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def settle() -> None:
    """What is there by now stays: looking through it again and again took 8 % of lowering."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
