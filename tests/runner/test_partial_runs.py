"""Runs of a part of the plan: a shard of it, and what may have changed since an earlier run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance.records.run import load_run
from report.loading import load
from report.merging import Named, merge
from tests.support.processes import ended

pytestmark = pytest.mark.process


def test_shards_of_a_run_merge_into_the_whole(tmp_path: Path) -> None:
    arguments = ("--arch", "llama,gpt2,mistral", "--clause", "SEN-2", "-n0")
    records = [tmp_path / f"{number}.json" for number in (1, 2)]
    for number, path in enumerate(records, 1):
        code, printed = ended(path, *arguments, "--shard", f"{number}/2")
        assert code == pytest.ExitCode.OK, printed
    assert load_run(records[0]).run.options["shard"] == "1/2"
    merged = merge([Named(path.name, load(path)) for path in records])
    assert {each.architecture for each in merged.cells} == {"llama", "gpt2", "mistral"}
    assert merged.run.complete


def test_a_run_since_another_judges_what_it_had_not_passed(tmp_path: Path) -> None:
    arguments = ("--arch", "llama,gpt2", "--clause", "SEN-2", "-n1")
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    assert ended(before, *arguments)[0] == pytest.ExitCode.OK
    plain = json.loads(before.read_text())
    plain["cells"][0]["verdict"] = "crash"
    before.write_text(json.dumps(plain))
    code, printed = ended(after, *arguments, "--since", str(before))
    assert code == pytest.ExitCode.OK, printed
    judged = json.loads(after.read_text())
    assert [each["id"] for each in judged["cells"]] == [plain["cells"][0]["id"]]
    assert judged["run"]["since"] == {"run": plain["run"]["id"], "left_out": [plain["cells"][1]["id"]], "missing": 0}
    assert not judged["run"]["complete"]
    assert f"1 cell judged again since run {plain['run']['id']}: crash in that run" in printed
    assert "1 cell not run again" in printed


def test_a_run_since_another_that_pytest_narrowed_is_not_complete(tmp_path: Path) -> None:
    arguments = ("--arch", "llama", "--clause", "SEN-2,EXP-1", "--backend", "exported", "--mode", "decode", "-n0")
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    assert ended(before, *arguments)[0] == pytest.ExitCode.OK
    plain = json.loads(before.read_text())
    plain["cells"][1]["verdict"] = "crash"
    before.write_text(json.dumps(plain))
    ended(after, *arguments, "--since", str(before), "-k", "not EXP-1")
    record = load_run(after)
    assert record.run.since is not None
    assert (record.cells, len(record.run.since.left_out), record.run.since.missing) == ((), 1, 1)
    assert not record.nothing_missing
