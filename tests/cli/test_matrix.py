"""`conformance matrix`: the records that it refuses before it changes a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from conformance.cli.main import main
from conformance.records.run import RunRecord, write_run
from tests.report.samples import cell, run
from tests.support.messages import printed

pytestmark = pytest.mark.unit

#: What each command changes files with.
_WRITERS = {
    "update": "schema.write_matrix",
    "partitions": "delegation.updated",
    "durations": "sharding.updated_durations",
}


def _of_checkpoint(record: RunRecord) -> RunRecord:
    return dataclasses.replace(record, run=dataclasses.replace(record.run, options={"checkpoint": "/models/gpt2"}))


@pytest.mark.parametrize("command", _WRITERS)
@pytest.mark.parametrize(
    ("record", "code"),
    [(_of_checkpoint(run(cell(architecture="gpt2"))), "checkpoint-record"), (run(cell(), cell()), "invalid-record")],
    ids=["checkpoint", "a cell twice"],
)
def test_a_record_that_cannot_be_used_changes_no_file(
    command: str, record: RunRecord, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Mock(return_value=())
    monkeypatch.setattr(f"conformance.matrix.{_WRITERS[command]}", write)
    path = tmp_path / "run.json"
    write_run(path, record)
    ended = CliRunner().invoke(main, ["matrix", command, str(path)])
    assert not write.called
    printed(ended.stderr, code)
