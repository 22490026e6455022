"""What a conversation shows, and what it shows when the runner fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from conformance.cli import chat as chatting
from conformance.cli.chat import Chat, ChatError, chat, without_statistics

pytestmark = pytest.mark.unit

_STATISTICS = b'PyTorchObserver {"prefill_token_per_sec":12.4,"decode_token_per_sec":5,"prompt_tokens":3}\n'


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_answers_are_passed_on_and_speeds_shown(size: int) -> None:
    printed = "Py is a word, é\n".encode() + _STATISTICS + b"PyTorch is one too"
    chunks = [printed[start : start + size] for start in range(0, len(printed), size)]
    expected = "Py is a word, é\n[12 tokens/s of the prompt, 5 tokens/s of the answer]\nPyTorch is one too"
    assert b"".join(without_statistics(chunks)).decode() == expected


def test_answer_is_shown_as_it_comes() -> None:
    assert [part for part in without_statistics([b"On", b"ce"]) if part] == [b"On", b"ce"]


def test_damaged_statistics_are_left_out() -> None:
    assert b"".join(without_statistics([b"PyTorchObserver {\n", b"x"])) == b"x"


def _chat(tmp_path: Path) -> Chat:
    for name in ("model.pte", "tokenizer"):
        (tmp_path / name).touch()
    return Chat(tmp_path / "model.pte", tmp_path / "tokenizer", most=-1, temperature=0.0)


def test_crashed_runner_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(settings: Chat, prompts: Iterable[str]) -> None:
        os.write(2, b"one output was expected\n")
        os.kill(os.getpid(), signal.SIGABRT)

    monkeypatch.setattr(chatting, "_answer", answer)
    with pytest.raises(ChatError, match="the runner died of SIGABRT; runner output: one output was expected"):
        chat(_chat(tmp_path), ["x"])


def test_refusal_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(settings: Chat, prompts: Iterable[str]) -> None:
        raise RuntimeError("no such method")

    monkeypatch.setattr(chatting, "_answer", answer)
    with pytest.raises(ChatError, match="the runner failed; runner output: no such method"):
        chat(_chat(tmp_path), ["x"])


def test_files_have_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ChatError, match=r"model\.pte: no such file"):
        chat(Chat(tmp_path / "model.pte", tmp_path, most=1, temperature=0.0), ["x"])
