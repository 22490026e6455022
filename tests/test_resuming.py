"""A run that was killed goes on where it was, and never mixes with another."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from conformance.environment import versions
from conformance.matrix import ROOT
from conformance.records import CellRecord, Environment, RunInfo, RunRecord, RunWriter, load_run
from conformance.resuming import NotResumableError, RecordTakenError, claim, judged_so_far
from conformance.verdicts import Verdict
from tests.harness import suite

_RUN = ("--arch", "gpt2,llama", "--backend", "exported", "--mode", "decode", "--clause", "EXP,SEN")
_ASKED: dict[str, str | int | None] = {"arch": "llama", "examples": None}


def _cell(clause: str, verdict: Verdict) -> CellRecord:
    return CellRecord(f"llama/eager/{clause}", "llama", None, "eager", None, clause, verdict)


def _write(path: Path) -> RunRecord:
    info = RunInfo(id="1", started="then", finished=None, complete=False, options=_ASKED, seed=None)
    cells = [_cell("SEN-1", Verdict.PASS), _cell("SEN-2", Verdict.NOT_RUN), _cell("PAR-8", Verdict.CRASH)]
    RunWriter(path, info, Environment("3.11", "linux", "a cpu", versions()), cells)
    return load_run(path)


def test_what_has_a_verdict_is_kept(tmp_path: Path) -> None:
    run = _write(tmp_path / "run.json")
    kept = judged_so_far(tmp_path / "run.json", _ASKED, versions(), None)
    assert kept == dataclasses.replace(run, cells=(run.cells[0], run.cells[2]))
    assert judged_so_far(tmp_path / "none.json", _ASKED, versions(), None) is None


@pytest.mark.parametrize(
    ("asked", "packages", "seed", "told"),
    [
        ({"arch": "gpt2"}, {}, None, "arch was llama there and is gpt2 now"),
        ({}, {"torch": "9.9"}, None, f"torch was {versions()['torch']} there and is 9.9 now"),
        ({}, {}, 7, "--hypothesis-seed was None there and is 7 now"),
    ],
)
def test_another_run_is_not_added_to(
    tmp_path: Path, asked: dict[str, str], packages: dict[str, str], seed: int | None, told: str
) -> None:
    _write(tmp_path / "run.json")
    with pytest.raises(NotResumableError, match=re.escape(told)):
        judged_so_far(tmp_path / "run.json", {**_ASKED, **asked}, {**versions(), **packages}, seed)


def test_another_commit_is_not_added_to_and_changes_on_top_of_the_same_are(tmp_path: Path) -> None:
    path, at = tmp_path / "run.json", "a" * 40
    run = _write(path)
    assert judged_so_far(path, _ASKED, versions(), None, at)  # an older record does not say
    RunWriter(path, dataclasses.replace(run.run, commit=at), run.environment, run.cells)
    assert judged_so_far(path, _ASKED, versions(), None)
    assert judged_so_far(path, _ASKED, versions(), None, f"{at}-dirty")
    with pytest.raises(NotResumableError, match=f"commit was {at} there and is {'b' * 40} now"):
        judged_so_far(path, _ASKED, versions(), None, "b" * 40)


def test_what_is_no_record_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    ended = suite(*_RUN, "--resume", "--record", str(tmp_path / "run.json"))
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert "run.json is not the record of a run" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_killed_run_goes_on_to_the_same_end(tmp_path: Path, workers: str) -> None:
    record = tmp_path / "run.json"
    arguments = (*_RUN, workers, "--record", str(record))
    killed = subprocess.Popen(
        [sys.executable, "-m", "pytest", "conformance", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    before: tuple[CellRecord, ...] = ()
    while len(before) < 3:
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
        try:
            before = load_run(record).cells
        except FileNotFoundError:
            continue
        except ValidationError as error:
            pytest.fail(f"a record that is not valid: {error}")
    killed.kill()
    killed.wait()
    before = load_run(record).cells
    assert not load_run(record).run.complete

    ended = suite(*arguments, "--resume")
    assert ended.returncode == 0, ended.stdout
    assert f"{len(before)} cells are done" in ended.stdout
    assert "20 cells: 20 pass" in ended.stdout
    run = load_run(record)
    assert run.run.complete
    assert all(cell in run.cells for cell in before)

    again = suite(*arguments, "--resume")
    assert again.returncode == 0, again.stdout
    assert load_run(record).cells == run.cells


def _record_of(count: int) -> tuple[RunInfo, list[CellRecord]]:
    info = RunInfo(id="1", started="then", finished=None, complete=False, options=_ASKED, seed=None)
    return info, [_cell(f"PAR-{number}", Verdict.PASS) for number in range(count)]


def test_a_record_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    info, cells = _record_of(300)
    writer = RunWriter(path, info, Environment("3.11", "linux", "a cpu", versions()))
    moments = random.Random(0)
    most = 0
    for _ in range(100):
        writing = os.fork()
        if writing == 0:
            try:
                for cell in cells:
                    writer.add(cell)
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(writing, signal.SIGKILL)
        os.waitpid(writing, 0)
        found = load_run(path).cells
        assert found == tuple(cells[: len(found)])
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
    info, cells = _record_of(50)
    writer = RunWriter(path, info, Environment("3.11", "linux", "a cpu", versions()), cells[:2])
    with _room_for(path.stat().st_size + 500):
        writer.add(cells[2])
        with pytest.raises(OSError, match="too large"):
            writer.add(*cells[3:])
        assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
        assert load_run(path).cells == tuple(cells[:3])
    writer.add()
    assert load_run(path).cells == tuple(cells)


def test_two_runs_do_not_write_one_record(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.json"
    with claim(path):
        with (
            claim(tmp_path / "other.json"),
            pytest.raises(RecordTakenError, match="another run is writing"),
            claim(path),
        ):
            pass
        ended = suite("--arch", "llama", "--clause", "SEN-2", "--record", str(path), "-n0")
        assert ended.returncode == pytest.ExitCode.USAGE_ERROR
        assert "another run is writing" in ended.stderr
        assert "Traceback" not in ended.stdout + ended.stderr
    with claim(path):
        pass


def _begun(record: Path, *arguments: str, room: int = resource.RLIM_INFINITY) -> subprocess.Popen[str]:
    """A run in a process of its own, once it has a verdict."""
    running = subprocess.Popen(
        [sys.executable, "-m", "pytest", "conformance", *arguments, "--record", str(record)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY)),  # noqa: PLW1509
    )
    while not (record.exists() and load_run(record).cells):
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.05)
    return running


_SHORT = ("--arch", "gpt2,llama", "--backend", "exported", "--mode", "decode", "--clause", "EXP-1,EXP-2,EXP-3,SEN-2")


def test_a_killed_worker_costs_no_verdict(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    running = _begun(record, *_SHORT, "-n2")
    workers = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(workers[0]), signal.SIGKILL)
    told = running.communicate(timeout=300)[0]
    verdicts = {cell.verdict for cell in load_run(record).cells}
    assert verdicts <= {Verdict.PASS, Verdict.NOT_RUN}, told
    ended = suite(*_SHORT, "-n2", "--record", str(record), "--resume")
    assert ended.returncode == 0, ended.stdout
    assert "8 cells: 8 pass" in ended.stdout


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_full_disk_ends_the_run_and_resume_goes_on(tmp_path: Path, workers: str) -> None:
    record = tmp_path / "run.json"
    running = _begun(record, *_SHORT, workers, "-s", room=2300)  # or pytest keeps what is printed in a file
    told = running.communicate(timeout=300)[0]
    assert running.returncode == pytest.ExitCode.INTERRUPTED, told
    assert "run.json cannot be written: File too large; make room for it" in told
    assert "run.json lacks the last verdicts" in told
    assert "Traceback" not in told
    before = load_run(record)
    assert before.cells
    assert not before.run.complete
    ended = suite(*_SHORT, workers, "--record", str(record), "--resume")
    assert ended.returncode == 0, ended.stdout
    assert f"{len(before.cells)} cells are done" in ended.stdout
    assert "8 cells: 8 pass" in ended.stdout


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_an_interrupted_run_sums_up_at_once(tmp_path: Path, workers: str) -> None:
    record = tmp_path / "run.json"
    running = _begun(
        record,
        *("--arch", "gpt2,llama", "--subject", "tests.faulty:hangs", "--backend", "exported", "--mode", "decode"),
        *("--clause", "SEN-2,EXP-1", workers),
    )
    time.sleep(1)
    began = time.monotonic()
    running.send_signal(signal.SIGINT)  # to the controller alone; a terminal would tell the workers too
    told = running.communicate(timeout=60)[0]
    assert time.monotonic() - began < 5
    assert running.returncode == pytest.ExitCode.INTERRUPTED
    assert "4 cells: " in told
    assert "not-run" in told
    assert not load_run(record).run.complete
