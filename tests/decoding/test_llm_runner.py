"""The metadata that ExecuTorch's LLM runner reads, and the child process that the runner is called in."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from transformers import GenerationConfig

from conformance.core.contract import Mode
from conformance.core.verdicts import ChildDiedError, StageError, Verdict
from conformance.decoding import llm_runner
from conformance.decoding.llm_runner import DEFAULT_SECONDS, Answer, Turn, converse
from conformance.decoding.tokenizers import CharTokenizer
from conformance.exporters.resolve import resolve
from conformance.models.fixtures import EOS_IDS, build_model, fixture_config
from conformance.reference import runner_methods
from tests.support.messages import refused

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
    with refused("no-static-cache"):
        runner_methods(model, dynamic=False)


def test_subject_brings_the_metadata_of_its_module_or_none() -> None:
    model = build_model(fixture_config("llama"))
    assert resolve("reference").methods(model, Mode.DYNAMIC) == runner_methods(model, dynamic=True)
    assert resolve("transformers").methods(model, Mode.DECODE) == {}


def test_bytes_that_are_not_a_program_are_not_loaded() -> None:
    with pytest.raises(StageError, match="Runner output: ") as caught:
        list(converse(b"no program at all", _LETTERS, [[Turn((1,), _LETTERS.encode_to_text((1,)))]]))
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
        list(converse(b"", _LETTERS, [[Turn((1,), "a"), Turn((2,), "b", most=4, again=True)]]))
    assert lost.value.verdict is verdict
    assert "reset, prompt [2], at most 4 tokens" in str(lost.value)
    assert "output of a runner" in str(lost.value) or "ZeroDivisionError" in str(lost.value)
