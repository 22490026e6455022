"""What was measured is in the record, whatever is killed or full, and `--resume` comes to the end that was meant."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conformance.core.time_scale import scaled
from conformance.core.verdicts import Verdict
from conformance.records.environment import versions
from conformance.records.resume import RecordTakenError, claim
from conformance.records.run import CellRecord, Environment, RunInfo, RunWriter, load_run
from tests.support.processes import children, ended, is_gone, started, wait_for_verdicts

pytestmark = pytest.mark.process

_INFO = RunInfo(id="1", started="then", finished=None, complete=False, options={}, seed=None)
_CELLS = [
    CellRecord(f"llama/eager/PAR-{n}", "llama", None, "eager", None, f"PAR-{n}", Verdict.PASS) for n in range(300)
]


def _writer(path: Path, count: int = 0) -> RunWriter:
    return RunWriter(path, _INFO, Environment("3.11", "linux", "a cpu", versions()), _CELLS[:count])


def test_a_record_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    writer = _writer(path)
    moments = random.Random(0)
    most = 0
    for _ in range(100):
        writing = os.fork()
        if writing == 0:
            try:
                for cell in _CELLS:
                    writer.add(cell)
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(writing, signal.SIGKILL)
        os.waitpid(writing, 0)
        found = load_run(path).cells
        assert found == tuple(_CELLS[: len(found)])
        most = max(most, len(found))
    assert most > 0


@contextmanager
def _room_for(size: int) -> Iterator[None]:
    """No file of this process can become larger than `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_no_verdict(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    writer = _writer(path, 2)
    with _room_for(path.stat().st_size + 500):
        writer.add(_CELLS[2])
        with pytest.raises(OSError, match="too large"):
            writer.add(*_CELLS[3:50])
        assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
        assert load_run(path).cells == tuple(_CELLS[:3])
    writer.add()
    assert load_run(path).cells == tuple(_CELLS[:50])


def _goes_on(record: Path, workers: str, done: int) -> None:
    code, told = ended(record, workers, "--resume")
    assert code == 0, told
    assert f"{done} of 8 cells done" in told
    assert "8 cells: 8 pass" in told
    run = load_run(record)
    assert run.run.complete
    assert {cell.verdict for cell in run.cells} == {Verdict.PASS}


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_killed_run_goes_on_and_leaves_no_process(tmp_path: Path, workers: str) -> None:
    record = tmp_path / "run.json"
    run = started(record, workers, behaviours="any EXP-2 hangs")
    wait_for_verdicts(run, record, 2)
    below = children(run.pid)
    below += [judging for worker in below for judging in children(worker)]
    run.kill()
    run.communicate()
    assert below
    assert all(is_gone(pid) for pid in below)
    done = load_run(record)
    assert not done.run.complete
    _goes_on(record, workers, len(done.cells))


def test_a_killed_worker_costs_no_verdict(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    run = started(record, "-n2", behaviours="any EXP-2 is_slow")
    wait_for_verdicts(run, record, 2)
    os.kill(children(run.pid)[0], signal.SIGKILL)
    told = run.communicate(timeout=scaled(300))[0]
    assert run.returncode != 0
    cells = load_run(record).cells
    assert {cell.verdict for cell in cells} == {Verdict.PASS, Verdict.NOT_RUN}, told
    lost = [cell for cell in cells if cell.verdict is Verdict.NOT_RUN]
    assert "the xdist worker was killed; --resume judges this cell again" in {cell.message for cell in lost}
    assert "8 cells: " in told
    _goes_on(record, "-n2", 8 - len(lost))


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_full_disk_ends_the_run_in_order(tmp_path: Path, workers: str) -> None:
    record = tmp_path / "run.json"
    run = started(record, workers, "-s", room=2600)  # without -s, pytest keeps what is printed in a file
    told = run.communicate(timeout=scaled(300))[0]
    assert run.returncode == pytest.ExitCode.INTERRUPTED, told
    assert "run.json cannot be written: File too large; free some space, then run again with --resume" in told
    assert "run.json lacks the last verdicts: File too large" in told
    assert "Traceback" not in told
    done = load_run(record)
    assert done.cells
    assert not done.run.complete
    _goes_on(record, workers, len(done.cells))


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_an_interrupted_run_sums_up_at_once(tmp_path: Path, workers: str) -> None:
    record = tmp_path / "run.json"
    run = started(record, workers, behaviours="any EXP-2 hangs")
    wait_for_verdicts(run, record, 2)
    began = time.monotonic()
    run.send_signal(signal.SIGINT)  # to the controller alone; a terminal would tell the workers too
    assert run.stdout
    summary = next(line for line in run.stdout if line.startswith("8 cells: "))
    assert time.monotonic() - began < scaled(5)
    assert "not-run" in summary
    assert "Traceback" not in run.communicate(timeout=scaled(60))[0]
    assert run.returncode == pytest.ExitCode.INTERRUPTED
    done = [cell for cell in load_run(record).cells if cell.verdict is not Verdict.NOT_RUN]
    _goes_on(record, workers, len(done))


def test_two_runs_do_not_write_one_record(tmp_path: Path) -> None:
    record = tmp_path / "new" / "run.json"
    with claim(record):
        with claim(tmp_path / "other.json"):
            pass
        with pytest.raises(RecordTakenError, match="another run is writing"), claim(record):
            pass
        code, told = ended(record, "-n0")
        assert code == pytest.ExitCode.USAGE_ERROR
        assert "another run is writing" in told
        assert "Traceback" not in told
        assert not record.exists()
    with claim(record):
        pass


@pytest.mark.parametrize("place", ["file/run.json", "/proc/nowhere/run.json"])
def test_a_record_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    code, told = ended(tmp_path / place, "-n0")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "--record: cannot write" in told
    assert "Traceback" not in told
