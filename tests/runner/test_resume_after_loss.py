"""What was measured is in the record, whatever is killed or full, and `--resume` completes the run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from conformance.core.commands import run_command
from conformance.core.time_scale import scaled
from conformance.core.verdicts import Verdict
from conformance.records.resume import claim
from conformance.records.run import RunInfo, journal_of, load_run
from tests.support.messages import printed, refused
from tests.support.processes import CELLS, CHECKS, children, ended, is_gone, judged, started, wait_for_verdicts

pytestmark = pytest.mark.process


def _goes_on(record: Path, workers: str, done: int) -> None:
    code, message = ended(record, workers, "--resume")
    assert code == 0, message
    assert f"{done} of 8 cells done" in message
    assert "8 cells: 8 pass" in message
    run = load_run(record)
    assert run.run.complete
    assert {cell.verdict for cell in run.cells} == {Verdict.PASS}
    assert not journal_of(record).exists()


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
    assert not record.exists()
    done = load_run(journal_of(record))
    assert not done.run.complete
    assert len(done.cells) == 8
    _goes_on(record, workers, len(judged(journal_of(record))))
    assert load_run(record).run.id == done.run.id


def test_a_killed_worker_costs_no_verdict(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    run = started(record, "-n2", behaviours="any EXP-2 is_slow")
    wait_for_verdicts(run, record, 2)
    os.kill(children(run.pid)[0], signal.SIGKILL)
    message = run.communicate(timeout=scaled(300))[0]
    assert run.returncode != 0
    cells = load_run(record).cells
    assert {cell.verdict for cell in cells} == {Verdict.PASS, Verdict.NOT_RUN}, message
    lost = [cell for cell in cells if cell.verdict is Verdict.NOT_RUN]
    assert "the xdist worker was killed; --resume judges this cell again" in {cell.message for cell in lost}
    assert "8 cells: " in message
    _goes_on(record, "-n2", 8 - len(lost))


def test_a_full_disk_ends_the_run_in_order(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    run = started(record, "-n2", "-s", room=3600)  # without -s, pytest keeps what is printed in a file
    message = run.communicate(timeout=scaled(300))[0]
    assert run.returncode == pytest.ExitCode.INTERRUPTED, message
    assert "run.jsonl cannot be written: File too large; free some space, then run again with --resume" in message
    assert "run.json cannot be written: File too large; its verdicts are in run.jsonl, as far as" in message
    assert " run --resume -- " in message.splitlines()[-1]
    assert "Traceback" not in message
    assert not record.exists()
    done = load_run(journal_of(record))
    assert judged(journal_of(record))
    assert not done.run.complete
    _goes_on(record, "-n2", len(judged(journal_of(record))))


@pytest.mark.parametrize(("workers", "number"), [("-n0", signal.SIGTERM), ("-n2", signal.SIGINT)])
def test_an_interrupted_run_sums_up_at_once(tmp_path: Path, workers: str, number: signal.Signals) -> None:
    record = tmp_path / "run.json"
    run = started(record, workers, behaviours="any EXP-2 hangs")
    wait_for_verdicts(run, record, 2)
    below = children(run.pid)
    began = time.monotonic()
    run.send_signal(number)  # to the controller alone; a terminal would send it to the workers too
    assert run.stdout
    summary = next(line for line in run.stdout if line.startswith("8 cells: "))
    assert time.monotonic() - began < scaled(5)
    assert "not-run" in summary
    # Not `communicate`, which would miss what has been read ahead.
    printed = run.stdout.read()
    run.wait(timeout=scaled(60))
    assert "Traceback" not in printed
    assert run.returncode == pytest.ExitCode.INTERRUPTED
    assert all(is_gone(pid) for pid in below)
    typed = [*CHECKS, *CELLS, "--record", str(record), workers]
    assert printed.splitlines()[-1] == run_command("--resume", "--", *typed)
    done = load_run(record)
    assert not done.run.complete
    assert {cell.verdict for cell in done.cells} == {Verdict.PASS, Verdict.NOT_RUN}
    assert not journal_of(record).exists()


def test_an_interruption_in_process_leaves_a_record(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    run = started(record, "-n0", "--in-process", behaviours="any EXP-2 hangs")
    wait_for_verdicts(run, record, 2)
    run.terminate()
    printed = run.communicate(timeout=scaled(60))[0]
    assert run.returncode == pytest.ExitCode.INTERRUPTED
    assert printed.splitlines()[-1].endswith(" -n0 --in-process")
    assert not load_run(record).run.complete


def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: str) -> tuple[str, str]:
    (tmp_path / "late.py").write_text(f"import os, pytest\n@pytest.hookimpl(wrapper=True)\n{hook}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "-p", "late"


def test_a_signal_as_the_summary_is_printed_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = _plugin(tmp_path, monkeypatch, "def pytest_terminal_summary(): os.kill(os.getpid(), 15); yield")
    code, printed = ended(tmp_path / "run.json", "-n0", *late)
    assert (code, "8 cells: 8 pass" in printed, "to resume" in printed) == (0, True, False), printed


def test_verdicts_stay_where_a_run_is_interrupted_as_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "run.json"
    late = _plugin(tmp_path, monkeypatch, "def pytest_sessionfinish(): raise KeyboardInterrupt; yield")
    printed = ended(record, "-n0", *late)[1]
    assert len(judged(journal_of(record))) == 8
    assert "to resume this run:\n" in printed


def test_a_signal_to_the_whole_group_ends_the_run_in_order(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    run = started(record, "-n2", behaviours="any EXP-2 hangs", session=True)
    wait_for_verdicts(run, record, 2)
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):  # a terminal's, and what tox sends in 0.3 s
        os.killpg(run.pid, number)
        time.sleep(0.1)
    printed = run.communicate(timeout=scaled(60))[0]
    assert run.returncode == pytest.ExitCode.INTERRUPTED, printed
    assert " run --resume -- " in printed.splitlines()[-1]
    assert not load_run(record).run.complete


def _info(record: Path) -> RunInfo:
    return load_run(record).run


def test_no_run_replaces_the_record_of_another(tmp_path: Path) -> None:
    record, other = tmp_path / "run.json", ("--clause", "EXP-1")
    assert ended(record, "-n0", *other)[0] == 0
    first = _info(record)
    code, printed = ended(record, "-n0", "--collect-only")
    assert (code, _info(record)) == (0, first)

    run = started(record, "-n0", behaviours="any EXP-2 hangs")
    wait_for_verdicts(run, record, 2)
    run.kill()
    run.communicate()
    (kept,) = tmp_path.glob("run-*.json")
    assert _info(kept) == first
    unfinished = _info(tmp_path / "run.jsonl")

    for _ in range(2):  # the same again is another run too
        code, printed = ended(record, "-n0")
        assert code == 0, printed
    (journal,) = tmp_path.glob("run-*.jsonl")
    assert _info(journal) == unfinished
    second = next(path for path in tmp_path.glob("run-*.json") if path != kept)
    assert f"the earlier run.json was moved to {second}" in printed
    assert len({first.id, unfinished.id, _info(second).id, _info(record).id}) == 4

    code, printed = ended(journal.with_suffix(".json"), "-n0", "--resume")
    assert (code, _info(journal.with_suffix(".json")).id) == (0, unfinished.id), printed
    assert not journal.exists()


def test_what_is_complete_leaves_nothing_to_judge(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    assert ended(record, "-n0")[0] == 0
    cells = load_run(record).cells
    code, printed = ended(record, "-n0", "--resume")
    assert code == 0, printed
    assert "8 of 8 cells done; nothing left to judge" in printed
    assert "8 cells: 8 pass" in printed
    assert "to resume" not in printed
    assert load_run(record).cells == cells
    assert list(tmp_path.glob("run-*")) == []


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("run.json", ["--resume"], "nothing-to-resume"),
        ("run.jsonl", [], "invalid-output"),
        ("run.json", ["--since", "{}/run.json"], "invalid-output"),
    ],
)
def test_a_usage_error_writes_nothing(tmp_path: Path, name: str, options: list[str], error: str) -> None:
    code, output = ended(tmp_path / name, "-n0", *(option.format(tmp_path) for option in options))
    assert code == pytest.ExitCode.USAGE_ERROR
    printed(output, error)
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_begin_leaves_the_record_where_it_was(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    assert ended(record, "-n0")[0] == 0
    content = record.read_bytes()
    code, output = ended(record, "-n1", "--host", "socket=localhost:9//chdir=/nowhere")
    assert code != 0
    assert "to resume" not in output
    assert record.read_bytes() == content
    assert [path.name for path in tmp_path.glob("run*")] == ["run.json"]


def test_two_runs_do_not_write_one_record(tmp_path: Path) -> None:
    record = tmp_path / "new" / "run.json"
    with claim(record):
        with claim(tmp_path / "other.json"):
            pass
        with refused("record-taken"), claim(record):
            pass
        code, output = ended(record, "-n0")
        assert code == pytest.ExitCode.USAGE_ERROR
        printed(output, "record-taken")
        assert "Traceback" not in output
        assert not record.exists()
    with claim(record):
        pass


@pytest.mark.parametrize("place", ["file/run.json", "/proc/nowhere/run.json"])
def test_a_record_that_cannot_be_written_is_an_error_before_anything_runs(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    code, output = ended(tmp_path / place, "-n0")
    assert code == pytest.ExitCode.USAGE_ERROR
    printed(output, "file-error")
    assert "Traceback" not in output
