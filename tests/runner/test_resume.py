"""A run of the suite's own checks that was killed goes on where it was; `test_resume_after_loss` has the rest."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from conformance.core.paths import ROOT
from conformance.records.run import CellRecord, journal_of, load_run
from tests.support.harness import suite
from tests.support.messages import printed
from tests.support.processes import judged

pytestmark = pytest.mark.process

#: Six cells. EXP-4 traces strictly, which takes seconds: so there is something to be killed at.
_RUN = ("--arch", "gpt2,llama", "--backend", "exported", "--mode", "decode", "--clause", "EXP-1,EXP-4,SEN-2")


def test_a_file_that_is_not_a_record_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    ended = suite(*_RUN, "--resume", "--record", str(tmp_path / "run.json"))
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    printed(ended.stderr, "invalid-record")
    assert "Traceback" not in ended.stderr


def test_killed_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    arguments = (*_RUN, "-n1", "--record", str(record))
    killed = subprocess.Popen(
        [sys.executable, "-m", "pytest", "conformance", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    before: list[CellRecord] = []
    journal = journal_of(record)
    while len(before) < 3:
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
        try:
            before = judged(journal)
        except FileNotFoundError:
            continue
        except ValidationError as error:
            pytest.fail(f"a record that is not valid: {error}")
    killed.kill()
    killed.wait()
    before = judged(journal)
    assert not load_run(journal).run.complete

    ended = suite(*arguments, "--resume")
    assert ended.returncode == 0, ended.stdout
    assert f"{len(before)} of 6 cells done" in ended.stdout
    assert "6 cells: 6 pass" in ended.stdout
    run = load_run(record)
    assert run.run.complete
    assert all(cell in run.cells for cell in before)
