"""Records that are compressed, and that can be read whatever was measured."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from conformance.records import run as records
from conformance.records.run import FieldsRecord, load_run, write_run
from tests.report.samples import cell, run
from tests.support.messages import refused

pytestmark = pytest.mark.unit


def test_compressed_record_is_read_as_it_was(tmp_path: Path) -> None:
    written = run(*(cell(clause=f"PAR-{number}") for number in range(1, 8)))
    for name in ("run.json", "run.json.gz", "again.json.gz"):
        write_run(tmp_path / name, written)
    assert load_run(tmp_path / "run.json.gz") == load_run(tmp_path / "run.json") == written
    assert gzip.decompress((tmp_path / "run.json.gz").read_bytes()) == (tmp_path / "run.json").read_bytes()
    assert (tmp_path / "again.json.gz").read_bytes() == (tmp_path / "run.json.gz").read_bytes()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_record_holds_a_number_that_json_has_not(value: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        cell(metrics={"max_relative_error": value})
    with pytest.raises(ValidationError, match="finite number"):
        FieldsRecord({"scaling": value}, {}, {})


def test_negative_duration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_run(path, run(cell()))
    path.write_text(path.read_text().replace('"duration_s":0.0', '"duration_s":-5.0'))
    with refused("invalid-record"):
        load_run(path)


def test_damaged_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json.gz"
    path.write_bytes(b"{}")
    with refused("invalid-record"):
        load_run(path)


def test_record_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_MOST_BYTES", 1 << 20)
    path = tmp_path / "run.json.gz"
    path.write_bytes(gzip.compress(bytes(1 << 24)))
    with pytest.raises(OSError, match="larger than 1 MiB"):
        load_run(path)
