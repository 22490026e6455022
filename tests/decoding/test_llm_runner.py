"""The metadata that ExecuTorch's LLM runner reads, and the child process that the runner is called in."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from executorch.exir import to_edge
from transformers import GenerationConfig

from conformance.core.contract import Mode
from conformance.core.verdicts import ChildDiedError, StageError, Verdict
from conformance.decoding import llm_runner
from conformance.decoding.llm_runner import (
    DEFAULT_SECONDS,
    Answer,
    ProgramError,
    RunnerProgram,
    Turn,
    converse,
    read_program,
)
from conformance.decoding.tokenizers import CharTokenizer
from conformance.exporters.resolve import resolve
from conformance.models.fixtures import EOS_IDS, build_model, fixture_config
from conformance.reference import ModelNotExportableError, runner_methods

pytestmark = pytest.mark.torch

_LETTERS = CharTokenizer(vocab=64, eos_id=5)


def test_metadata_is_that_of_the_exported_model() -> None:
    model = build_model(fixture_config("llama"), max_cache_len=16)
    methods = runner_methods(model, dynamic=True)
    assert methods["get_max_seq_len"] == methods["get_max_context_len"] == 16
    assert methods["enable_dynamic_shape"] is True
    assert methods["get_eos_ids"] == list(EOS_IDS)


def test_ends_of_text_come_from_the_config_where_generation_names_none() -> None:
    model = build_model(fixture_config("llama"))
    sizes = {"batch_size": 1, "max_cache_len": 32}
    model.generation_config = GenerationConfig(use_cache=True, cache_implementation="static", cache_config=sizes)
    model.config.eos_token_id = 7
    assert runner_methods(model, dynamic=False)["get_eos_ids"] == [7]
    model.config.eos_token_id = None
    assert "get_eos_ids" not in runner_methods(model, dynamic=False)


def test_model_without_a_static_cache_is_refused() -> None:
    model = build_model(fixture_config("llama"))
    model.generation_config = GenerationConfig(use_cache=True)
    with pytest.raises(ModelNotExportableError, match="cache_implementation"):
        runner_methods(model, dynamic=False)


def test_subject_brings_the_metadata_of_its_module_or_none() -> None:
    model = build_model(fixture_config("llama"))
    assert resolve("reference").methods(model, Mode.DYNAMIC) == runner_methods(model, dynamic=True)
    assert resolve("transformers").methods(model, Mode.DECODE) == {}


def test_what_is_no_program_is_not_loaded() -> None:
    with pytest.raises(StageError, match="Runner output: ") as caught:
        converse(b"no program at all", _LETTERS, [Turn((1,), _LETTERS.encode_to_text((1,)))])
    assert caught.value.signature == "load:RuntimeError:Failed to create text llm runner with model: model.pte"


@pytest.mark.parametrize(
    ("end", "verdict", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGABRT), Verdict.CRASH, "died of SIGABRT at turn 2"),
        (
            lambda: os.kill(os.getpid(), signal.SIGALRM),
            Verdict.TIMEOUT,
            f"exceeded its limit of {DEFAULT_SECONDS} s at turn 2",
        ),
        (lambda: 1 // 0, Verdict.CRASH, "died with exit code 1 at turn 2"),
    ],
)
def test_message_of_a_died_process_names_the_turn_and_its_output(
    monkeypatch: pytest.MonkeyPatch, end: object, verdict: Verdict, message: str
) -> None:
    def answers(directory: Path, tokenizer: Path, turns: tuple[Turn, ...]) -> object:
        yield Answer((_LETTERS.letter(1),))
        os.write(2, b"output of a runner\n")
        end()  # type: ignore[operator]

    monkeypatch.setattr(llm_runner, "_answers", answers)
    with pytest.raises(ChildDiedError, match=message) as lost:
        converse(b"", _LETTERS, [Turn((1,), "a"), Turn((2,), "b", most=4, again=True)])
    assert lost.value.verdict is verdict
    assert "reset, prompt [2], at most 4 tokens" in str(lost.value)
    assert "output of a runner" in str(lost.value) or "ZeroDivisionError" in str(lost.value)


class _Logits(torch.nn.Module):
    def forward(self, ids: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return ids.to(torch.float32).unsqueeze(-1) + position.unsqueeze(-1) + torch.zeros(9)


class _TwoOutputs(_Logits):
    def forward(self, ids: torch.Tensor, position: torch.Tensor) -> Any:
        return super().forward(ids, position), ids + 1


class _TakesNumbers(_Logits):
    def forward(self, ids: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return ids * position


def _program(path: Path, module: torch.nn.Module, dtype: torch.dtype = torch.long, **methods: Any) -> Path:
    examples = torch.ones((1, 1), dtype=dtype), torch.ones(1, dtype=dtype)
    to_edge(torch.export.export(module, examples), constant_methods=methods or None).to_executorch().save(str(path))
    return path


def test_what_a_program_says_is_read(tmp_path: Path) -> None:
    program = _program(tmp_path / "m.pte", _Logits(), get_max_seq_len=8, get_eos_ids=[3, 5])
    assert read_program(program) == RunnerProgram(8, 9, (3, 5))
    program = _program(tmp_path / "m.pte", _Logits(), get_max_seq_len=8, get_max_context_len=16)
    assert read_program(program) == RunnerProgram(16, 9, ())


@pytest.mark.parametrize(
    ("module", "dtype", "methods", "why"),
    [
        (
            _Logits,
            torch.long,
            {},
            r"it has no metadata, and the runner needs get_max_seq_len; `conformance model export`",
        ),
        (_TakesNumbers, torch.float32, {"get_max_seq_len": 8}, r"int64 \[seq\], and it takes \[1, 1\] of type 6"),
        (_TwoOutputs, torch.long, {"get_max_seq_len": 8}, "the runner takes one output of forward, the logits, and it"),
    ],
)
def test_program_that_is_not_for_the_runner_is_one_sentence(
    tmp_path: Path, module: type[torch.nn.Module], dtype: torch.dtype, methods: dict[str, Any], why: str
) -> None:
    with pytest.raises(ProgramError, match=f"m.pte is not a program for ExecuTorch's LLM runner: .*{why}"):
        read_program(_program(tmp_path / "m.pte", module(), dtype, **methods))


def test_what_is_no_program_is_said(tmp_path: Path) -> None:
    (tmp_path / "m.pte").write_bytes(b"no program at all")
    with pytest.raises(ProgramError, match=r"m\.pte is not an ExecuTorch program that this ExecuTorch loads"):
        read_program(tmp_path / "m.pte")


def test_program_that_takes_too_long_to_load_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conformance.decoding.llm_runner.DEFAULT_SECONDS", 1)
    monkeypatch.setattr("conformance.decoding.llm_runner._read_program", lambda _: time.sleep(60))
    with pytest.raises(ProgramError, match="loading it exceeded 1 s"):
        read_program(tmp_path / "m.pte")
