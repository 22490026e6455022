"""A model of one's own, from its directory to an answer: the commands as a person types them."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from conformance.cli.check import Answer, answer, screen
from conformance.cli.main import main
from conformance.cli.steps import Steps
from conformance.core.verdicts import ClauseViolationError, Verdict
from conformance.models.checkpoints import read_checkpoint
from conformance.pipeline.stages import build
from conformance.records.run import load_run
from tests.support.checkpoints import write_checkpoint
from tests.support.harness import judge, python_module, suite
from tests.support.messages import printed
from tests.support.warm import warm_module

pytestmark = [pytest.mark.torch, pytest.mark.process]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("own") / "own")


def command(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, and what it printed and said, in a warm process."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ended = warm_module("conformance", *map(str, arguments), environ=quiet)
    return ended.returncode, ended.stdout, ended.stderr


def new_command(*arguments: str | Path) -> tuple[int, str, str]:
    """The same in a new process, in which libraries print what they do when they are imported."""
    ended = python_module("conformance", *map(str, arguments))
    return ended.returncode, ended.stdout, ended.stderr


def test_export_makes_a_program_to_chat_with(saved: Path, tmp_path: Path) -> None:
    program = tmp_path / "sub" / "m.pte"
    code, message, said = new_command(
        "model", "export", saved, "-o", program, "--backend", "portable", "--cache-length", "48"
    )
    assert code == 0, said
    assert program.read_bytes()[4:8] == b"ET12"
    assert [path.name for path in program.parent.iterdir()] == ["m.pte"]
    assert f"wrote {program}" in message
    assert "cache     48 tokens" in message
    assert [re.split(",| …", line)[0] for line in said.splitlines()] == [
        "[1/4] loading own",
        "[2/4] exporting",
        "[3/4] lowering",
        "[4/4] emitting",
    ]
    greedy = ("model", "chat", program, "--tokenizer", saved, "--max-new-tokens", "6", "--prompt", "Once upon a time")
    twice = command(*greedy, "--prompt", "/reset", "--prompt", "Once upon a time")
    assert twice[0] == 0, twice
    assert "tokens/s of the prompt" in twice[1]
    answers = [line for line in twice[1].splitlines() if "tokens/s" not in line]
    assert len(answers) == 2
    assert answers[0] == answers[1]
    assert f"model check {program} --model {saved}" in message
    record = tmp_path / "check.json"
    asked = ("--model", saved, "--clause", "PAR-1,RUN-1", "--max-examples", "1", "--output", record)
    code, message, said = command("model", "check", program, *asked)
    assert code == 2, message + said
    assert f"May {program}, of own, be shipped on portable? Not known." in message
    assert "? Only PAR-1,RUN-1 was asked for." in message
    assert "llama; mode dynamic, a cache of 48 tokens, float32" in message
    assert {cell.id for cell in load_run(record).cells} == {
        "own/file/portable/dynamic/PAR-1",
        "own/file/portable/dynamic/RUN-1",
    }


def test_check_prints_yes_and_the_evidence(saved: Path, tmp_path: Path) -> None:
    record = tmp_path / "check.json"
    asked = ("--backend", "portable", "--cache-length", "24", "--max-examples", "2", "--output", record)
    code, message, said = command("model", "check", saved, *asked)
    assert code == 0, message + said
    assert "May own be shipped on portable? Yes." in message
    assert "3 of 3 clauses hold; " in message
    run = load_run(record)
    assert run.run.options["checkpoint"] == str(saved)
    runner = {cell.clause: cell for cell in run.cells if cell.clause.startswith("RUN")}
    assert {cell.verdict for cell in runner.values()} == {Verdict.PASS}
    # Its own tokenizer has ids that are no text by themselves, and greedy decoding meets one.
    assert sum((cell.metrics or {}).get("answers_cut", 0) for cell in runner.values()) > 0
    checkpoint = read_checkpoint(saved, 24, "float32")
    assert screen(run, checkpoint) in message


def test_bfloat16_is_delegated_and_decodes_within_its_own_rounding(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "half", {"num_hidden_layers": 1}, dtype=torch.bfloat16)
    record = tmp_path / "check.json"
    asked = ("--dtype", "auto", "--backend", "xnnpack", "--cache-length", "24", "--output", record)
    code, message, said = command("model", "check", directory, *asked, "--clause", "LOW-3,PAR-1", "--max-examples", "1")
    assert code == 2, message + said
    assert "May half be shipped on xnnpack? Not known." in message
    assert "a cache of 24 tokens, bfloat16\n" in message
    by_clause = {(cell.backend, cell.clause): cell for cell in load_run(record).cells}
    assert {cell.verdict for cell in by_clause.values()} == {Verdict.PASS}
    metrics = by_clause["xnnpack", "PAR-1"].metrics or {}
    assert 1e-5 < metrics["tolerance"] < 0.2
    assert metrics["max_relative_error"] < metrics["tolerance"]


def test_embeddings_that_are_tied_and_stored_twice_are_a_limit_of_the_backend(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "tied", {"num_hidden_layers": 1})
    record = tmp_path / "check.json"
    asked = ("--backend", "xnnpack", "--cache-length", "24", "--output", record)
    code, message, said = command("model", "check", directory, *asked, "--clause", "LOW-4", "--max-examples", "1")
    assert code == 2, message + said  # one clause that holds is neither a no nor a yes
    assert "Not known" in message
    cells = load_run(record).cells
    assert {(cell.verdict, cell.signature) for cell in cells} == {(Verdict.EXPECTED_FAILURE, "lower:stored-twice")}
    assert all(cell.expected and "tied to the embedding" in cell.expected.reason for cell in cells)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("export", "{nowhere}"), "file-error"),
        (("check", "{nowhere}"), "file-error"),
        (("check", "{nowhere}.pte", "--model", "{saved}"), "file-error"),
        (("export", "{saved}", "--cache-length", "300"), "cache-too-long"),
        (("export", "{saved}", "--backend", "xnnpack-8da4w", "--dtype", "bfloat16"), "conflicting-options"),
        (("export", "{saved}", "--prompt-chunk", "8", "--mode", "decode"), "conflicting-options"),
        (("export", "{saved}", "--prompt-chunk", "64", "--cache-length", "32"), "conflicting-options"),
        (("export", "{saved}", "--attention", "custom", "--dtype", "bfloat16"), "conflicting-options"),
        (
            ("export", "{saved}", "--attention", "portable", "--backend", "xnnpack-custom-attention"),
            "conflicting-options",
        ),
        (("check", "{saved}/config.json"), "not-a-model"),
        (("check", "{saved}", "--model", "{saved}"), "conflicting-options"),
        (("chat", "{nowhere}", "--tokenizer", "{saved}"), "file-error"),
        (("chat", "{saved}/config.json", "--tokenizer", "{saved}", "--prompt", "x"), "invalid-program"),
        (("chat", "{saved}/config.json", "--tokenizer", "{saved}", "--system", "x"), "conflicting-options"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    saved: Path, tmp_path: Path, arguments: tuple[str, ...], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"nowhere": tmp_path / "nowhere", "saved": saved}
    exit_code = main.run(["model", *(each.format(**places) for each in arguments)])
    assert exit_code == (2 if arguments[0] == "check" else 1)  # 1 is the answer no
    _assert_refused(*capsys.readouterr(), code)


def test_no_library_prints_more_when_it_is_imported(saved: Path) -> None:
    exit_code, out, err = new_command("model", "check", saved / "config.json", "--model", saved)
    assert exit_code == 2
    _assert_refused(out, err, "invalid-program")


def _assert_refused(out: str, err: str, code: str) -> None:
    assert not out
    printed(err, code)
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--cache-length", "8"), "conflicting-options"),
        (("--attention", "custom"), "conflicting-options"),
        (("--checkpoint", "{saved}", "--program", "{saved}/no.pte"), "file-error"),
        (("--checkpoint", "{saved}", "--arch", "llama"), "conflicting-options"),
        (("--checkpoint", "{saved}", "--dtype", "float8"), "unknown-name"),
        (("--checkpoint", "{saved}", "--since", "run.json"), "conflicting-options"),
        (("--checkpoint", "{saved}", "--cache-length", "300"), "cache-too-long"),
    ],
)
def test_options_of_a_checkpoint_have_to_fit(saved: Path, arguments: tuple[str, ...], code: str) -> None:
    ended = suite(*(each.format(saved=saved) for each in arguments))
    assert ended.returncode == 4
    printed(ended.stderr, code)


def test_a_run_on_weights_that_have_changed_is_not_resumed(tmp_path: Path) -> None:
    saved, record = write_checkpoint(tmp_path / "own", {"num_hidden_layers": 1}), tmp_path / "run.json"
    options = (f"--checkpoint={saved}", "--backend=exported", "--mode=decode", "--clause=EXP-1,EXP-2")
    assert suite(*options, f"--output={record}").returncode == 0
    plain = json.loads(record.read_text())
    plain["cells"][0]["verdict"] = "not-run"
    record.write_text(json.dumps(plain | {"run": plain["run"] | {"complete": False}}))
    weights = next(saved.glob("*.safetensors"))
    os.utime(weights, (0, 0))
    ended = suite(*options, f"--output={record}", "--resume")
    assert ended.returncode == 4
    assert "files of the checkpoint changed" in printed(ended.stderr, "resume-differs")


def test_a_model_that_custom_attention_does_not_fit_may_not_be_shipped(tmp_path: Path) -> None:
    """Also if a backend is for it, on which the cells of a fixture are not-applicable."""
    saved = write_checkpoint(tmp_path / "own", {"num_hidden_layers": 1}, model_type="gemma2")
    asked = ("--backend", "xnnpack-custom-attention", "--clause", "PAR-1", "--max-examples", "1", "--mode", "decode")
    code, message, said = command("model", "check", saved, *asked, "--output", tmp_path / "check.json")
    assert code == 1, said
    assert "be shipped on xnnpack-custom-attention? No." in message
    assert "mode decode, a cache of 64 tokens, custom attention, float32" in message
    assert "its scores are bounded (softcap)" in message
    assert "--attention custom" in message


def _without_attention(architecture: str) -> PreTrainedModel:
    """Whose cache plays no part."""
    model = build(architecture)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    return model


def test_a_model_in_which_no_fault_shows_fails() -> None:
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
    shown = screen(run, read_checkpoint(saved, 24))
    assert "May own be shipped on xnnpack? Not known." in shown
    assert "the worker was killed" in shown


def test_notes_on_loading_are_shown_once(tmp_path: Path, saved: Path) -> None:
    plain: Any = _record()
    for cell in plain["cells"]:
        cell["notes"] = ["left out: 3 tensors of model.visual"]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(plain))
    assert screen(load_run(path), read_checkpoint(saved, 24)).count("note: left out: 3 tensors") == 1


def test_model_that_cannot_be_loaded_is_explained_once(tmp_path: Path, saved: Path) -> None:
    plain: Any = _record()
    why = "PAR-1 failed at stage build\n  observed  CheckpointError: 8 weights without a place"
    for cell in plain["cells"]:
        cell |= {"verdict": "fail", "stage": "build", "signature": "build:CheckpointError", "message": why}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(plain))
    shown = screen(load_run(path), read_checkpoint(saved, 24))
    assert shown.count("8 weights without a place") == 1
    assert "not PAR-1, PAR-2" in shown


def test_note_has_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps(2)
    steps.note(["before"])
    steps.begin("loading")
    steps.note(["of loading"])
    steps.begin("exporting")
    steps.end()
    lines = [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["note: before", "[1/2] loading", "note: of loading", "[2/2] exporting"]


def test_sign_of_life_tells_how_far_a_step_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conformance.cli.steps._EVERY", 0.01)
    steps = Steps(1)
    steps.begin("lowering")
    steps.at("delegate 3 of 8")
    time.sleep(0.2)
    steps.end()
    assert " MiB, delegate 3 of 8 … " in capsys.readouterr().err


def test_screen_tells_what_was_quantised_and_what_that_costs(tmp_path: Path, saved: Path) -> None:
    plain: dict[str, Any] = _record()
    weight = {"name": "model.embed_tokens.weight", "dtype": "float32", "size": 8192, "why": "an embedding"}
    made = {"products": 8, "product_bytes": 65536, "quantised": 7, "quantised_bytes": 61440, "model_bytes": 73728}
    cost = {"float_sqnr_db": 24.2, "greedy_agreement": 0.9375, "perplexity_float": 31.2, "perplexity_quantised": 33.0}
    for mode in ("decode", "dynamic"):
        where = {"id": f"own/reference/xnnpack/{mode}/LOW-11", "clause": "LOW-11", "mode": mode, "verdict": "pass"}
        plain["cells"].append(plain["cells"][0] | where | {"quantisation": {**made, "kept": [weight]}, "metrics": cost})
    path = tmp_path / "run.json"
    path.write_text(json.dumps(plain))
    shown = screen(load_run(path), read_checkpoint(saved, 24)).splitlines()
    assert [line.strip() for line in shown if "quantised" in line or "float32:" in line] == [
        "quantised: 7 of 8 weights of matrix products, 60.0 KiB of 64.0 KiB",
        "not quantised: model.embed_tokens.weight, 8.0 KiB of float32, an embedding",
        "against float32: 24 dB of signal over noise, greedy tokens agree at 94% of positions, perplexity 31.2 -> 33.0",
    ]


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
            "options": {"backend": "xnnpack", "mode": "dynamic"},
            "seed": None,
        },
        "environment": {"python": "3.11", "platform": "", "cpu": "", "packages": {"torch": "2.13.0"}},
        "cells": cells,
    }
