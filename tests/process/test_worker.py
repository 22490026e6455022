"""An architecture's process that crashes, hangs, exits or takes too much memory costs the cell it was at."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conformance.core.contract import Mode
from conformance.core.paths import ROOT
from conformance.core.time_scale import scaled
from conformance.core.verdicts import Stage, StageError, Verdict, at
from conformance.decoding.oracle import Oracle
from conformance.decoding.sessions import RuntimeSession
from conformance.exporters.resolve import Exporter
from conformance.pipeline import lowering, stages
from conformance.pipeline.backends import PORTABLE
from conformance.process.worker import AnotherAskedForError, IsolatedWorker, Limits, WorkerDiedError, ask_for_another
from conformance.records.run import load_run
from tests.faults.miniature_checks import LAST_WORDS as MINIATURE_LAST_WORDS
from tests.support.processes import ended, is_gone

pytestmark = [pytest.mark.torch, pytest.mark.process]


def _segfaults(*_: object, **__: object) -> None:
    ctypes.string_at(0)


def _aborts(*_: object, **__: object) -> None:
    os.abort()


def _exits(*_: object, **__: object) -> None:
    os._exit(3)


def _is_killed(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hangs(*_: object, **__: object) -> None:
    time.sleep(600)


def _hangs_in_c(*_: object, **__: object) -> None:
    ctypes.PyDLL(None).sleep(600)  # and lets no other Python thread run


def _allocates(*_: object, **__: object) -> None:
    held = []
    while True:
        held.append(b"x" * (64 << 20))


class _Unreadable:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return int, ("no number",)


def _answers_nonsense(*_: object, **__: object) -> _Unreadable:
    return _Unreadable()


def _fine() -> str:
    return "fine"


def _worker(job: Callable[..., object], seconds: float) -> IsolatedWorker:
    """One that does `job` for "lost", and something harmless for "fine"."""
    jobs = {"fine": _fine, "lost": job}
    return IsolatedWorker(lambda name: jobs[name](), Limits(seconds, mebibytes=1500))


def _lost(job: Callable[..., object], seconds: float = scaled(60)) -> WorkerDiedError:
    """How `job` is lost, before and after which all is well."""
    worker = _worker(job, seconds)
    try:
        assert worker.run("llama", "exported decode", "fine") == "fine"
        with pytest.raises(WorkerDiedError) as lost:
            worker.run("llama", "exported decode", "lost")
        assert worker.run("gpt2", "exported decode", "fine") == "fine"
    finally:
        worker.close()
    return lost.value


@pytest.mark.parametrize(
    ("job", "verdict", "message"),
    [
        (_segfaults, Verdict.CRASH, "died of SIGSEGV"),
        (_aborts, Verdict.CRASH, "died of SIGABRT"),
        (_is_killed, Verdict.CRASH, "died of SIGKILL, which the kernel sends when memory runs out"),
        (_exits, Verdict.CRASH, "died with exit code 3"),
        (_answers_nonsense, Verdict.CRASH, "sent an unreadable result (ValueError)"),
        (_hangs, Verdict.TIMEOUT, "exceeded the 2 s limit for exported decode"),
        (_hangs_in_c, Verdict.TIMEOUT, "exceeded the 2 s limit for exported decode"),
        (_allocates, Verdict.OUT_OF_MEMORY, "over its limit of 1500 MiB"),
    ],
)
def test_lost_process_costs_one_job(job: Callable[..., object], verdict: Verdict, message: str) -> None:
    lost = _lost(job, seconds=2 if verdict is Verdict.TIMEOUT else scaled(60))
    assert lost.verdict is verdict
    assert message in str(lost)
    if job not in (_is_killed, _exits, _answers_nonsense):  # the others have no time to leave a trace
        assert f" {job.__name__}" in str(lost)


def test_process_may_ask_for_another() -> None:
    worker = _worker(ask_for_another, seconds=2)
    try:
        first = worker.run("llama", "exported decode", "fine")
        with pytest.raises(AnotherAskedForError):
            worker.run("llama", "exported decode", "lost")
        assert worker.run("llama", "exported decode", "fine") == first
    finally:
        worker.close()


def test_subjects_of_an_architecture_do_not_meet() -> None:
    worker = _worker(os.getpid, seconds=60)

    def process(subject: str | None) -> int:
        pid: int = worker.run("llama", "exported decode", "lost", subject)
        return pid

    try:
        first = process(None)
        assert process("reference") == process("reference") == process(None) == first
        assert process("transformers-exporters") != first
    finally:
        worker.close()


def test_used_up_time_is_a_timeout_of_the_cells_that_follow() -> None:
    worker = _worker(_hangs, seconds=2)
    try:
        with pytest.raises(WorkerDiedError):
            worker.run("llama", "exported decode", "lost")
        with pytest.raises(WorkerDiedError, match="llama used up the 2 s limit for exported decode") as lost:
            worker.run("llama", "exported decode", "fine")
        assert lost.value.verdict is Verdict.TIMEOUT
        assert worker.run("llama", "exported dynamic", "fine") == "fine"
    finally:
        worker.close()


@pytest.mark.parametrize("ends", [_segfaults, _aborts, _exits, _is_killed])
@pytest.mark.parametrize("stage", Stage)
def test_the_stage_is_known_however_the_process_ended(
    monkeypatch: pytest.MonkeyPatch, stage: Stage, ends: Callable[..., object]
) -> None:
    lost = _lost(_at(stage, ends, monkeypatch))
    assert (lost.verdict, lost.stage) == (Verdict.CRASH, stage)
    assert f"at stage {stage}" in str(lost)


def _at(stage: Stage, ends: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """A job that goes through the suite's own code of a stage, and ends in what that calls."""
    tensor = torch.zeros(1, 1, dtype=torch.long)
    match stage:
        case Stage.BUILD:
            monkeypatch.setattr(stages, "built", ends)
            return lambda: stages.build("llama")
        case Stage.EAGER:
            oracle: Any = Oracle.__new__(Oracle)
            oracle.model, oracle._cache_argument = ends, "past_key_values"
            return lambda: oracle.step(None, 1)
        case Stage.EXPORT:
            model: Any = SimpleNamespace(generation_config=SimpleNamespace(cache_config={"batch_size": 1}))
            return lambda: stages.export(Exporter("faulty", ends), model, Mode.DECODE)
        case Stage.LOWER:
            monkeypatch.setattr(lowering, "held_tensors", lambda _: {})
            monkeypatch.setattr(lowering, "to_edge_transform_and_lower", ends)
            return lambda: lowering.lower(SimpleNamespace(), PORTABLE)  # type: ignore[arg-type]
        case Stage.EMIT:
            lowered: Any = SimpleNamespace(edge=SimpleNamespace(to_executorch=ends))
            return lambda: lowering.emit(lowered, PORTABLE)
        case Stage.LOAD:
            monkeypatch.setattr(stages, "local_runtime", lambda: SimpleNamespace(load_program=ends))
            return lambda: stages.load(b"")
        case Stage.EXECUTE:
            session = RuntimeSession(SimpleNamespace(execute=ends))
            return lambda: session.step(tensor, tensor[0])


def test_a_stage_that_is_over_is_not_named() -> None:
    def job() -> None:
        with at(Stage.EXPORT):
            with suppress(StageError), at(Stage.BUILD):
                raise ValueError
            os._exit(1)

    assert _lost(job).stage is Stage.EXPORT

    def later() -> None:
        with at(Stage.EXPORT):
            pass
        os._exit(1)

    assert _lost(later).stage is None


def test_an_exporter_that_ends_python_has_failed() -> None:
    with pytest.raises(StageError, match="SystemExit"), at(Stage.EXPORT):
        sys.exit(0)


def test_what_a_lost_process_has_started_ends_with_it(tmp_path: Path) -> None:
    def job() -> None:
        started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (tmp_path / "pid").write_text(str(started.pid))
        os.abort()

    _lost(job)
    assert is_gone(int((tmp_path / "pid").read_text()))


_PARENT = """
import os, sys, time
from conformance.process.worker import IsolatedWorker, Limits

def hang():
    print(os.getpid(), flush=True)
    time.sleep(600)

IsolatedWorker(lambda job: job(), Limits(600, 1000)).run("llama", "exported decode", hang)
"""


def test_worker_ends_with_a_parent_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        judging = int(parent.stdout.readline())
        parent.kill()
    assert is_gone(judging)


#: The behaviour of each cell's check, its verdict, and a part of its message. The one that hangs is last: it uses the
#: time up.
_BEHAVIOURS = {
    "gpt2 EXP-1": ("segfaults", Verdict.CRASH, "died of SIGSEGV"),
    "gpt2 EXP-2": ("exits", Verdict.CRASH, "died with exit code 3"),
    "gpt2 EXP-3": ("takes_all_memory", Verdict.OUT_OF_MEMORY, "over its limit of 1000 MiB"),
    "llama EXP-2": ("aborts", Verdict.CRASH, f"output    {MINIATURE_LAST_WORDS}"),
    "llama EXP-3": ("hangs", Verdict.TIMEOUT, "exceeded the 8 s limit for reference exported decode"),
}


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_each_loss_costs_one_cell(tmp_path: Path, workers: str) -> None:
    record = tmp_path / "run.json"
    behaviours = ",".join(f"{cell} {behaviour}" for cell, (behaviour, _, _) in _BEHAVIOURS.items())
    code, output = ended(record, workers, "--time-limit", "8", "--memory-limit", "1000", behaviours=behaviours)
    assert code == pytest.ExitCode.TESTS_FAILED, output
    assert "8 cells: 3 pass, 3 crash, 1 timeout, 1 out-of-memory" in output
    run = load_run(record)
    assert run.run.complete
    for cell in run.cells:
        _, verdict, words = _BEHAVIOURS.get(f"{cell.architecture} {cell.clause}", ("", Verdict.PASS, ""))
        assert (cell.verdict, cell.stage) == (verdict, None if verdict is Verdict.PASS else Stage.EXPORT), cell
        assert words in (cell.message or "")
