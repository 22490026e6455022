"""The screen that ends `conformance model check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance.cli.check import Answer, answer, screen
from conformance.models.checkpoints import read_checkpoint
from conformance.records.run import load_run
from tests.support.checkpoints import write_checkpoint

pytestmark = pytest.mark.torch

_ENVIRONMENT: dict[str, object] = {"python": "3.11", "platform": "", "cpu": "", "packages": {}}
_RUN: dict[str, object] = {
    "id": "0",
    "started": "2026-11-28T00:00:00+00:00",
    "finished": None,
    "complete": True,
    "options": {},
    "seed": None,
}


def _cell(backend: str, clause: str, verdict: str) -> dict[str, object]:
    where = {"id": f"own/reference/{backend}/dynamic/{clause}", "architecture": "own", "subject": "reference"}
    return {
        **where,
        "backend": backend,
        "mode": "dynamic",
        "clause": clause,
        "verdict": verdict,
        "duration_s": 1.0,
        "replay": "",
    }


@pytest.mark.parametrize(
    ("cells", "clause", "expected"),
    [
        ([("exported", "PAR-1", "pass"), ("xnnpack", "PAR-1", "pass")], None, Answer.YES),
        ([("exported", "PAR-1", "pass"), ("xnnpack", "LOW-1", "pass")], None, Answer.NOT_KNOWN),
        ([("xnnpack", "PAR-1", "not-applicable")], None, Answer.NOT_KNOWN),
        ([], None, Answer.NOT_KNOWN),
        ([("xnnpack", "PAR-1", "pass")], "PAR-1", Answer.NOT_KNOWN),
        ([("xnnpack", "PAR-1", "pass"), ("xnnpack", "PAR-2", "fail")], "PAR", Answer.NO),
    ],
)
def test_yes_needs_every_clause_and_a_program_that_ran(
    tmp_path: Path, cells: list[tuple[str, str, str]], clause: str | None, expected: Answer
) -> None:
    info = {**_RUN, "options": {"backend": "xnnpack", "clause": clause}}
    record = {"schema_version": 1, "run": info, "environment": _ENVIRONMENT, "cells": [_cell(*each) for each in cells]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert answer(load_run(tmp_path / "run.json")) is expected


def test_a_program_that_was_not_reached_is_not_called_compiled_only(tmp_path: Path) -> None:
    info = {**_RUN, "complete": False, "options": {"backend": "xnnpack", "clause": None}}
    cells = [_cell("xnnpack", "LOW-1", "pass"), _cell("xnnpack", "PAR-1", "not-run")]
    record = {"schema_version": 1, "run": info, "environment": _ENVIRONMENT, "cells": cells}
    (tmp_path / "run.json").write_text(json.dumps(record))
    run = load_run(tmp_path / "run.json")
    assert answer(run) is Answer.NOT_KNOWN
    shown = screen(run, read_checkpoint(write_checkpoint(tmp_path / "own", {"num_hidden_layers": 1}), 24))
    assert "compiled only" not in shown


def test_what_an_app_has_to_know_of_the_tokenizer_is_shown(tmp_path: Path) -> None:
    cell = {
        "id": "own/eager/RUN-4",
        "architecture": "own",
        "subject": None,
        "backend": "eager",
        "mode": None,
        "clause": "RUN-4",
        "verdict": "pass",
        "duration_s": 1.0,
        "replay": "",
        "metrics": {"tokenizer_ids": 400, "logits": 512, "num_bos": 1},
    }
    none = {**cell, "id": "own/x/RUN-2", "backend": "portable", "clause": "RUN-2", "verdict": "not-applicable"}
    record = {"schema_version": 1, "run": _RUN, "environment": _ENVIRONMENT, "cells": [cell, none]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    directory = write_checkpoint(tmp_path / "own", {"num_hidden_layers": 1})
    shown = screen(load_run(tmp_path / "run.json"), read_checkpoint(directory, 24))
    expected = "1 of 1 clause holds; an app has to set num_bos=1; 400 ids in the tokenizer, 512 logits"
    assert f"✓ Runner, the model itself: {expected}" in shown
    assert "0 of 0" not in shown
    assert "letter for each token id" not in shown
    (directory / "tokenizer.json").unlink()
    shown = screen(load_run(tmp_path / "run.json"), read_checkpoint(directory, 24))
    assert "There is no tokenizer: the runner read one letter for each token id." in shown
