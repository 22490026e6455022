"""A model of one's own, from its directory to an answer: the commands as a person types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from conformance.cli.check import Answer, answer, screen
from conformance.core.paths import ROOT
from conformance.core.verdicts import ClauseViolationError, Verdict
from conformance.models.checkpoints import read_checkpoint
from conformance.pipeline.stages import build
from conformance.records.run import load_run
from tests.support.checkpoints import write_checkpoint
from tests.support.harness import judge, suite

pytestmark = [pytest.mark.torch, pytest.mark.process]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("own") / "own")


def command(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, and what it printed and said."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ended = subprocess.run(
        [sys.executable, "-m", "conformance", *map(str, arguments)],
        cwd=ROOT,
        env=quiet,
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_export_makes_a_program_to_chat_with(saved: Path, tmp_path: Path) -> None:
    program = tmp_path / "sub" / "m.pte"
    code, told, said = command("model", "export", saved, "-o", program, "--backend", "portable", "--cache-length", "48")
    assert code == 0, said
    assert program.read_bytes()[4:8] == b"ET12"
    assert [path.name for path in program.parent.iterdir()] == ["m.pte"]
    assert f"wrote {program}" in told
    assert "cache     48 tokens" in told
    assert [line.split(",")[0] for line in said.splitlines()] == [
        "[1/4] loading own",
        "[2/4] exporting",
        "[3/4] lowering",
        "[4/4] emitting",
    ]
    greedy = ("model", "chat", program, "--tokenizer", saved, "--max-new-tokens", "6", "--prompt", "Once upon a time")
    once = command(*greedy)
    assert once[0] == 0, once
    assert "tokens/s of the prompt" in once[1]
    twice = command(*greedy, "--prompt", "/reset", "--prompt", "Once upon a time")
    answers = [line for line in twice[1].splitlines() if "tokens/s" not in line]
    assert len(answers) == 2
    assert answers[0] == answers[1] == once[1].splitlines()[0]


def test_check_says_yes_and_what_it_has_seen(saved: Path, tmp_path: Path) -> None:
    record = tmp_path / "check.json"
    code, told, said = command(
        "model", "check", saved, "--backend", "portable", "--cache-length", "24", "--output", record
    )
    assert code == 0, told + said
    assert "May own be shipped on portable? Yes." in told
    assert "3 of 3 clauses hold; " in told
    run = load_run(record)
    assert run.run.options["checkpoint"] == str(saved)
    runner = {cell.clause: cell for cell in run.cells if cell.clause.startswith("RUN")}
    assert {cell.verdict for cell in runner.values()} == {Verdict.PASS}
    # Its own tokenizer has ids that are no text by themselves, and greedy decoding meets one.
    assert sum((cell.metrics or {}).get("answers_cut", 0) for cell in runner.values()) > 0
    checkpoint = read_checkpoint(saved, 24, "float32")
    assert screen(run, checkpoint, "portable") in told


def test_check_says_no_and_bfloat16_decodes_within_its_own_rounding(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "half", {"num_hidden_layers": 1}, dtype=torch.bfloat16)
    record = tmp_path / "check.json"
    asked = ("--dtype", "auto", "--backend", "xnnpack", "--cache-length", "24", "--output", record)
    code, told, said = command("model", "check", directory, *asked, "--clause", "EXP-1,LOW-3,PAR-1,PAR-9,PAR-10,RUN-2")
    assert code == 1, told + said
    assert "May half be shipped on xnnpack? No." in told
    assert "bfloat16; torch" in told
    assert f"--checkpoint {directory}" in told.partition("again")[2]
    by_clause = {(cell.backend, cell.clause): cell for cell in load_run(record).cells}
    failed = [place for place, cell in by_clause.items() if cell.verdict is not Verdict.PASS]
    # XNNPACK leaves matrix products of bfloat16 with a dynamic length to ExecuTorch's own kernels.
    assert failed == [("xnnpack", "LOW-3")]
    metrics = by_clause["xnnpack", "PAR-1"].metrics or {}
    assert 1e-5 < metrics["tolerance"] < 0.2
    assert metrics["max_relative_error"] < metrics["tolerance"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("export", "{nowhere}"), "no such directory"),
        (("check", "{nowhere}"), "no such directory"),
        (("export", "{saved}", "--cache-length", "300"), "longer than the model's 256 positions"),
        (("export", "{saved}", "--backend", "xnnpack-8da4w", "--dtype", "bfloat16"), "quantises a model of float32"),
        (("chat", "{nowhere}", "--tokenizer", "{saved}"), "no such file"),
        (("chat", "{saved}/config.json", "--tokenizer", "{saved}", "--prompt", "x"), "is not an ExecuTorch program"),
        (("chat", "{saved}/config.json", "--tokenizer", "{saved}", "--system", "x"), "add --chat"),
    ],
)
def test_what_cannot_be_is_one_sentence(saved: Path, tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    places = {"nowhere": tmp_path / "nowhere", "saved": saved}
    code, printed, said = command("model", *(each.format(**places) for each in arguments))
    assert code == 1
    assert printed == ""
    assert said.startswith("error: ")
    assert told in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--cache-length", "8"), "are about a --checkpoint, and none is given"),
        (("--checkpoint", "{saved}", "--arch", "llama"), "own is judged and nothing else"),
        (("--checkpoint", "{saved}", "--dtype", "float8"), "No such dtype 'float8'"),
        (("--checkpoint", "{saved}", "--cache-length", "300"), "longer than the model's 256 positions"),
    ],
)
def test_options_of_a_checkpoint_have_to_fit(saved: Path, arguments: tuple[str, ...], told: str) -> None:
    ended = suite(*(each.format(saved=saved) for each in arguments))
    assert ended.returncode == 4
    assert told in ended.stderr


def _without_attention(architecture: str) -> PreTrainedModel:
    """Whose cache plays no part."""
    model = build(architecture)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    return model


def test_model_that_no_fault_shows_in_proves_nothing() -> None:
    with pytest.raises(ClauseViolationError, match="at least 1 times") as caught:
        judge("SEN-1", "llama", make_model=_without_attention, is_checkpoint=True)
    assert caught.value.signature.startswith("eager:insensitive-to-")


def test_model_of_ones_own_need_not_be_made_to_show_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.checks.test_sensitivity.LEAST_EFFECT", 1e9)
    judge("SEN-1", "llama", is_checkpoint=True)
    with pytest.raises(ClauseViolationError, match="at least 1000000000"):
        judge("SEN-1", "llama")


def test_answer_is_not_known_where_something_was_not_judged(tmp_path: Path, saved: Path) -> None:
    plain = _record()
    path = tmp_path / "run.json"
    path.write_text(json.dumps(plain))
    run = load_run(path)
    assert answer(run) is Answer.NOT_KNOWN
    shown = screen(run, read_checkpoint(saved, 24), "xnnpack")
    assert "May own be shipped on xnnpack? Not known." in shown
    assert "the worker was killed" in shown


def _record() -> dict[str, object]:
    cell = {
        "architecture": "own",
        "subject": "reference",
        "backend": "xnnpack",
        "mode": "dynamic",
        "duration_s": 1.0,
        "replay": "",
    }
    cells = [
        {**cell, "id": "own/reference/xnnpack/dynamic/PAR-1", "clause": "PAR-1", "verdict": "pass"},
        {
            **cell,
            "id": "own/reference/xnnpack/dynamic/PAR-2",
            "clause": "PAR-2",
            "verdict": "not-run",
            "message": "the worker was killed",
        },
    ]
    return {
        "schema_version": 1,
        "run": {
            "id": "0",
            "started": "2026-11-28T00:00:00+00:00",
            "finished": None,
            "complete": False,
            "options": {},
            "seed": None,
        },
        "environment": {"python": "3.11", "platform": "", "cpu": "", "packages": {"torch": "2.13.0"}},
        "cells": cells,
    }
