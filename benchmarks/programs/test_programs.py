"""The reference's programs against those that people ship, one row of the table a test.

A bound that does not hold fails no test: `python -m benchmarks` prints it, and exits with 1. What fails here is a
program of the reference's that cannot be made or is wrong, and a measurement that broke.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.programs.cases import REFERENCE, Case, Side
from benchmarks.programs.measuring import measure
from benchmarks.programs.results import Row
from benchmarks.programs.store import Store


def test_programs(case: Case, sides: tuple[Side, ...], store: Store, keep: Callable[[Row], None]) -> None:
    row = measure(case, sides, store)
    keep(row)
    ours = row.sides.get(REFERENCE.name)
    assert ours is None or not ours.absent, ours.absent
