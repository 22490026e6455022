"""An architecture's process that crashes, hangs, exits or takes too much memory costs the cell it was at."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conformance.isolation import ArchitectureLostError, Keeper, Limits, _stage_of
from conformance.records import load_run
from conformance.verdicts import Stage, Verdict
from tests.harness import suite


def _segfaults() -> None:
    ctypes.string_at(0)


def _hangs() -> None:
    time.sleep(600)


def _allocates() -> None:
    held = []
    while True:
        held.append(b"x" * (64 << 20))


def _exits() -> None:
    os._exit(3)


_JOBS: list[Callable[[], object]] = [lambda: "fine", _segfaults, _hangs, _allocates, _exits, os.getpid]


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    keeper = Keeper(lambda job: _JOBS[job](), Limits(seconds=5, mebibytes=1500))
    yield keeper
    keeper.close()


@pytest.mark.parametrize(
    ("job", "verdict", "told"),
    [
        (1, Verdict.CRASH, "died of SIGSEGV"),
        (2, Verdict.TIMEOUT, "was over the 5 s of exported decode"),
        (3, Verdict.OUT_OF_MEMORY, "over its limit of 1500 MiB"),
        (4, Verdict.CRASH, "died with exit code 3"),
    ],
)
def test_lost_process_costs_one_job(keeper: Keeper, job: int, verdict: Verdict, told: str) -> None:
    assert keeper.run("llama", "exported decode", 0) == "fine"
    with pytest.raises(ArchitectureLostError, match=told) as lost:
        keeper.run("llama", "exported decode", job)
    assert lost.value.verdict is verdict
    if job != 4:  # nothing is left of a process that just exits
        assert f" {_JOBS[job].__name__}" in str(lost.value)
    assert keeper.run("gpt2", "exported decode", 0) == "fine"


def test_subjects_of_an_architecture_do_not_meet(keeper: Keeper) -> None:
    def process(subject: str | None) -> int:
        told: int = keeper.run("llama", "exported decode", 5, subject)
        return told

    first = process(None)
    assert process("reference") == process("reference") == process(None) == first
    assert process("transformers-exporters") != first


def test_used_up_time_is_told_for_the_cells_that_follow(keeper: Keeper) -> None:
    with pytest.raises(ArchitectureLostError):
        keeper.run("llama", "exported decode", 2)
    with pytest.raises(ArchitectureLostError, match="llama, exported decode, had used up its 5 s") as lost:
        keeper.run("llama", "exported decode", 0)
    assert lost.value.verdict is Verdict.TIMEOUT
    assert keeper.run("llama", "exported dynamic", 0) == "fine"


@pytest.mark.parametrize(
    ("frame", "stage"),
    [
        ('  File "/x/conformance/pipeline/stages.py", line 12 in lower', Stage.LOWER),
        ('  File "/x/conformance/sessions.py", line 12 in step', Stage.EXECUTE),
        ('  File "/x/torch/nn.py", line 12 in lower', None),
    ],
)
def test_stage_is_read_off_the_trace(frame: str, stage: Stage | None) -> None:
    assert _stage_of(f'Current thread:\n  File "/x/torch.py", line 1 in f\n{frame}\n') is stage


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
@pytest.mark.parametrize(
    ("subject", "verdict"),
    [("kills_the_process", Verdict.CRASH), ("hangs", Verdict.TIMEOUT), ("takes_all_memory", Verdict.OUT_OF_MEMORY)],
)
def test_lost_architecture_does_not_end_the_run(tmp_path: Path, workers: str, subject: str, verdict: Verdict) -> None:
    record = tmp_path / "run.json"
    ended = suite(
        *("--arch", "llama", "--subject", f"tests.faulty:{subject}", "--backend", "exported", "--mode", "decode"),
        *("--clause", "SEN-1,EXP-1", "--record", str(record), "--time-limit", "30", "--memory-limit", "3000", workers),
    )
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    run = load_run(record)
    assert run.run.complete
    by_clause = {cell.clause: cell for cell in run.cells}
    assert by_clause["SEN-1"].verdict is Verdict.PASS
    lost = by_clause["EXP-1"]
    assert (lost.verdict, lost.stage) == (verdict, None if subject == "kills_the_process" else Stage.EXPORT)
    assert lost.message
    assert lost.message.startswith("EXP-1 came to no verdict")
