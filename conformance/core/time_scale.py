"""Limits of wall-clock time scale together: a slow or busy machine needs more of it for the same work."""

from __future__ import annotations

import math
import os

from conformance.core.errors import InputError

TIME_SCALE = "CONFORMANCE_TIME_SCALE"


def scaled(seconds: int) -> int:
    """`seconds` times the environment variable `CONFORMANCE_TIME_SCALE`, rounded up; 1 where that is not set.

    Raises:
        ValueError: The variable is not a number above 0.
    """
    text = os.environ.get(TIME_SCALE) or "1"
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not 0 < scale < math.inf:
        raise InputError("invalid-number", f"{TIME_SCALE} is {text!r}; expected a number above 0, such as 3")
    return math.ceil(seconds * scale)
