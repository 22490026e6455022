"""What a run writes until it ends can be read at any moment, and nothing that was measured gets lost."""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.core.verdicts import Verdict
from conformance.records.journal import Journal, move_aside
from conformance.records.run import (
    UNREACHED,
    CellRecord,
    Environment,
    JournalFooter,
    RunInfo,
    RunRecord,
    is_journal,
    journal_of,
    load_run,
    write_run,
)
from tests.support.messages import refused

pytestmark = pytest.mark.unit

_INFO = RunInfo(id="1", started="then", finished=None, complete=False, options={}, seed=None)
_ENVIRONMENT = Environment("3.11", "linux", "a cpu", {"torch": "2.13.0"})
_CELLS = [
    CellRecord(f"llama/eager/PAR-{n}", "llama", None, "eager", None, f"PAR-{n}", Verdict.PASS, message="a\nb\r\u2028c")
    for n in range(300)
]


def _journal(path: Path, count: int = 0) -> Journal:
    return Journal(path, _INFO, _ENVIRONMENT, cells=_CELLS[:count])


def test_a_journal_is_the_run_so_far_and_its_footer_makes_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    whole = dataclasses.replace(_INFO, finished="now", complete=True)
    journal = Journal(path, whole, _ENVIRONMENT, cells=_CELLS[:1])
    journal.add(*_CELLS[1:3])
    unfinished = RunRecord(1, _INFO, _ENVIRONMENT, tuple(_CELLS[:3]))
    assert load_run(path) == unfinished  # whatever the header says
    journal.add(JournalFooter("now", True))
    assert load_run(path) == dataclasses.replace(unfinished, run=whole)
    journal.add(_CELLS[3])
    assert load_run(path).run == _INFO  # the last line is no footer
    assert len(path.read_bytes().splitlines()) == 6
    journal.remove()
    assert not path.exists()


def test_a_later_verdict_on_a_cell_replaces_the_earlier_one(tmp_path: Path) -> None:
    later = dataclasses.replace(_CELLS[0], verdict=Verdict.CRASH)
    journal = _journal(tmp_path / "run.jsonl", 2)
    journal.add(later)
    assert load_run(journal.path).cells == (later, _CELLS[1])


def test_a_journal_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path, cut = tmp_path / "run.jsonl", tmp_path / "cut.jsonl"
    _journal(path, 2)
    content = path.read_bytes()
    header, first, second = (len(line) for line in content.splitlines(keepends=True))
    for size in range(len(content) + 1):
        cut.write_bytes(content[:size])
        if size < header:
            with refused("invalid-record"):
                load_run(cut)
        else:
            assert load_run(cut).cells == tuple(_CELLS[: (size - header) // first])
    assert first == second


@pytest.mark.parametrize("line", ["{", '{"id": "x"}', '{"finished": 1, "complete": true}', "[]", ""])
def test_a_damaged_line_is_an_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "run.jsonl"
    _journal(path)
    with path.open("a") as file:
        file.write(f"{line}\n")
    _journal(path.with_name("other.jsonl"), 1)
    with refused("invalid-record"):
        load_run(path)


def test_a_journal_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    moments = random.Random(0)
    most = 0
    for _ in range(20):
        journal = _journal(path)  # a run that is resumed begins its journal anew, so half a line is always the last
        writing = os.fork()
        if writing == 0:
            try:
                for cell in _CELLS:
                    journal.add(cell)
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0, 0.004))
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
    path = tmp_path / "run.jsonl"
    journal = _journal(path, 2)
    with _room_for(path.stat().st_size + 500):
        journal.add(_CELLS[2])
        with pytest.raises(OSError, match="too large"):
            journal.add(*_CELLS[3:50])
        assert [entry.name for entry in tmp_path.iterdir()] == ["run.jsonl"]
        assert load_run(path).cells == tuple(_CELLS[:3])
        assert path.read_bytes().endswith(b"\n")
    journal.add()
    assert load_run(path).cells == tuple(_CELLS[:50])


def test_a_record_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run = RunRecord(1, _INFO, _ENVIRONMENT, tuple(_CELLS[:2]))
    write_run(path, run)
    with _room_for(path.stat().st_size), pytest.raises(OSError, match="too large"):
        write_run(path, dataclasses.replace(run, cells=tuple(_CELLS)))
    assert load_run(path) == run
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(("record", "journal"), [("run.json", "run.jsonl"), ("5.14", "5.14.jsonl"), ("x", "x.jsonl")])
def test_the_journal_stands_beside_the_record(record: str, journal: str) -> None:
    assert journal_of(Path("a") / record) == Path("a") / journal
    assert is_journal(Path(journal))
    assert not is_journal(Path(record))


def test_who_asks_for_a_record_that_is_still_a_journal_is_sent_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_run(tmp_path / "run.json")
    with pytest.raises(FileNotFoundError):
        load_run(tmp_path / "run.jsonl")
    _journal(tmp_path / "run.jsonl")
    with refused("unfinished-record"):
        load_run(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("run.json", ["run-20261129T182202Z.json", "run-20261129T182202Z-2.json", "run-20261129T182202Z-3.json"]),
        ("run.jsonl", ["run-20261129T182202Z.jsonl", "run-20261129T182202Z-2.jsonl"]),
        ("run.json.gz", ["run-20261129T182202Z.json.gz"]),
        ("5.14", ["5.14-20261129T182202Z"]),
    ],
)
def test_an_earlier_file_is_moved_where_none_is(tmp_path: Path, name: str, names: list[str]) -> None:
    for number, new in enumerate(names):
        path = tmp_path / name
        path.write_text(str(number))
        os.utime(path, (1_795_976_522, 1_795_976_522))
        assert move_aside(path) == tmp_path / new
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        new: str(number) for number, new in enumerate(names)
    }
    assert move_aside(tmp_path / name) is None


def test_what_is_not_a_file_is_not_moved(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(OSError, match="not a regular file"):
        move_aside(tmp_path / "run.json")


def test_a_cell_that_was_not_reached_is_not_run(tmp_path: Path) -> None:
    planned = [Cell("llama", None, "eager", None, "SEN-1"), Cell("llama", "reference", "xnnpack", Mode.DECODE, "PAR-1")]
    journal = Journal(tmp_path / "run.jsonl", _INFO, _ENVIRONMENT, planned)
    unreached, later = load_run(journal.path).cells
    assert (unreached.id, unreached.verdict) == ("llama/eager/SEN-1", Verdict.NOT_RUN)
    assert (later.id, later.mode, later.message) == (planned[1].id, "decode", UNREACHED)
    journal.add(dataclasses.replace(later, verdict=Verdict.PASS, message=None))
    assert [cell.verdict for cell in load_run(journal.path).cells] == [Verdict.NOT_RUN, Verdict.PASS]
