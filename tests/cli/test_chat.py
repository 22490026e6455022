"""What a person sees of a conversation, and of one that the runner does not hold."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from conformance.cli import chat as chatting
from conformance.cli.chat import Chat, ChatError, chat, told

pytestmark = pytest.mark.unit

_STATISTICS = b'PyTorchObserver {"prefill_token_per_sec":12.4,"decode_token_per_sec":5,"prompt_tokens":3}\n'


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_answers_are_passed_on_and_statistics_told(size: int) -> None:
    printed = "Py is a word, é\n".encode() + _STATISTICS + b"PyTorch is one too"
    chunks = [printed[start : start + size] for start in range(0, len(printed), size)]
    expected = "Py is a word, é\n[12 tokens/s of the prompt, 5 tokens/s of the answer]\nPyTorch is one too"
    assert b"".join(told(chunks)).decode() == expected


def test_answer_is_shown_as_it_comes() -> None:
    assert [part for part in told([b"On", b"ce"]) if part] == [b"On", b"ce"]


def test_damaged_statistics_are_left_out() -> None:
    assert b"".join(told([b"PyTorchObserver {\n", b"x"])) == b"x"


def _chat(tmp_path: Path) -> Chat:
    for name in ("model.pte", "tokenizer"):
        (tmp_path / name).touch()
    return Chat(tmp_path / "model.pte", tmp_path / "tokenizer", most=-1, temperature=0.0)


def test_lost_runner_tells_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def converse(asked: Chat, prompts: Iterable[str]) -> None:
        os.write(2, b"one output was expected\n")
        os.kill(os.getpid(), signal.SIGABRT)

    monkeypatch.setattr(chatting, "_converse", converse)
    with pytest.raises(ChatError, match="the runner died of SIGABRT; its last words: one output was expected"):
        chat(_chat(tmp_path), ["x"])


def test_refusal_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def converse(asked: Chat, prompts: Iterable[str]) -> None:
        raise RuntimeError("no such method")

    monkeypatch.setattr(chatting, "_converse", converse)
    with pytest.raises(ChatError, match="the runner failed; its last words: no such method"):
        chat(_chat(tmp_path), ["x"])


def test_files_have_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ChatError, match=r"model\.pte: no such file"):
        chat(Chat(tmp_path / "model.pte", tmp_path, most=1, temperature=0.0), ["x"])
