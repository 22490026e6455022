"""Rows as a run would have measured them."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks.programs.results import Made, Results, Row, SideResult, Timing

PACKAGES = {"torch": "2.13.0", "transformers": "5.23.0"}


def side(
    *, start: float = 0.02, end: float = 0.03, prompt: float = 0.5, size: int = 1000, seconds: float = 20.0, **more: Any
) -> SideResult:
    """A program that is right: seconds of a token near both ends and of a prompt, bytes, seconds to make."""
    return SideResult(
        made=Made(size, size, seconds, 4 * size, PACKAGES),
        error=1e-6,
        start=Timing(start, start, 100),
        end=Timing(end, end, 100),
        prompt=Timing(prompt, prompt, 7, 128),
        peak_bytes=2 * size,
        **more,
    )


def void(of: SideResult) -> SideResult:
    """The same, its logits wrong."""
    return dataclasses.replace(of, error=0.9, void=True, absent="void: its logits are off")


def row(sides: dict[str, SideResult], **fields: Any) -> Row:
    """A row of the slice, whose roofline is 0.01 s near the start."""
    message = {
        "shape": "smollm2-4",
        "dtype": "float32",
        "cache": 1024,
        "mode": "dynamic",
        "started": "2026-11-30T01:00:00",
    }
    sizes = {"bandwidth": 1e9, "weight_bytes": 9_000_000, "start_cache_bytes": 1_000_000, "end_cache_bytes": 6_000_000}
    return Row(**{**message, **sizes, **fields}, sides=sides)


def results(*rows: Row) -> Results:
    """A run."""
    return Results(1, "a processor, 2 cores", "Linux", "3.11.7", PACKAGES, "0123456789abcdef", list(rows))
