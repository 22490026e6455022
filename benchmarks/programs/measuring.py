"""One case: its programs made or found, then timed in a process of their own."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.programs.cases import EAGER, Case, Side
from benchmarks.programs.results import Row, row_of
from benchmarks.programs.store import Store, run_module

#: Characters shown of what a process printed last.
_SHOWN = 2000


def measure(case: Case, sides: Iterable[Side], store: Store) -> Row:
    """The row of a case.

    Args:
        case: The case.
        sides: Whose programs are compared. One that cannot be made is in the row with the reason.
        store: Where programs are kept.

    Raises:
        RuntimeError: The process that timed them died.
    """
    sides = list(sides)
    products = {side.name: store.program(case, side) for side in sides if side != EAGER}
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        programs = {name: each.as_values() for name, each in products.items() if each.path}
        values = {
            "case": case.as_values(),
            "programs": programs,
            "absent": {name: each.absent for name, each in products.items() if not each.path},
            "eager": EAGER in sides,
            "answer": str(answer),
        }
        request.write_text(json.dumps(values), encoding="utf-8")
        ended = run_module(Path(sys.executable), "benchmarks.programs.timing", str(request))
        if not answer.exists():
            raise RuntimeError(
                f"{case.name}: the process that times programs ended with {ended.returncode}: {ended.stderr[-_SHOWN:]}"
            )
        return row_of(json.loads(answer.read_text(encoding="utf-8")))
