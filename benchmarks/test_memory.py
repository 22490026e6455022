"""Memory of the process that hands out architectures, over all of them: what one leaves behind, the next would pay."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pairs import BASE, OURS, note
from conformance.core.paths import ROOT
from conformance.matrix.schema import Tier, load_matrix
from conformance.records.run import load_run

#: After so many architectures, everything that is imported once has been.
_SETTLED = 10
_EVERY_S = 0.5


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Bytes of resident memory, by side: once settled, and the most from then on."""
    record = tmp_path_factory.mktemp("memory") / "run.json"
    command = [sys.executable, "-m", "pytest", "conformance", "--tier", "full", "-n0", "--output", str(record)]
    command += ["--backend", "exported", "--mode", "decode", "--clause", "SEN-2,EXP-1,PAR-1", "--max-examples", "1"]
    settled, most = 0, 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for resident in _resident(process):
            if not settled and _judged(record) >= _SETTLED:
                settled = resident
            most = max(most, resident) if settled else 0
    assert _judged(record) > len(load_matrix().in_tier(Tier.FULL)) * 0.9, "most of the tier was not judged"
    return {BASE: settled, OURS: most}


@pytest.mark.parametrize("side", [OURS, BASE])
def test_worker_over_the_full_tier(benchmark: Any, seen: dict[str, int], side: str) -> None:
    sizes = {"bytes": seen[side]}
    note(benchmark, f"full tier, a worker: at most / after {_SETTLED} architectures", side, 1.3, sizes, timed=False)
    benchmark.pedantic(lambda: None, rounds=1)


def _resident(process: subprocess.Popen[bytes]) -> Iterator[int]:
    """Bytes, again and again until it ends; of the process itself, and not of those that it forks."""
    while process.poll() is None:
        time.sleep(_EVERY_S)
        try:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, IndexError):
            return
        yield pages * os.sysconf("SC_PAGE_SIZE")


def _judged(record: Path) -> int:
    """Architectures with a verdict so far."""
    if not record.exists():
        return 0
    return len({cell.architecture for cell in load_run(record).cells if cell.mode})
