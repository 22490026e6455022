"""A conversation with the runner: that the answers are those of Transformers, and what is said where it ends early."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from conformance.cli import chat as chatting
from conformance.cli.chat import RESET, Chat, chat
from conformance.cli.export_model import export_for_runner, write_program
from conformance.cli.model import _try_it
from conformance.core.attention import CUSTOM, PORTABLE
from conformance.core.call_shape import CallShape
from conformance.core.contract import Mode
from conformance.decoding import reading
from conformance.decoding.reading import Opening, load_original, load_reader, read_by, render, written_by_runner
from conformance.models.checkpoints import load_model, read_checkpoint
from conformance.pipeline.backends import BACKENDS
from conformance.pipeline.program_file import ProgramFile
from tests.decoding.test_reading import TEMPLATE
from tests.faults import tokenizers
from tests.faults.tokenizers import VOCAB, begin_with, changed
from tests.support.checkpoints import END, write_checkpoint, write_tokenizer
from tests.support.messages import refused

pytestmark = pytest.mark.torch

LENGTH = 96
Shown = pytest.CaptureFixture[bytes]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("own") / "own", {"num_hidden_layers": 1})


def _program(checkpoint: Path, attention: str) -> Path:
    path = checkpoint.parent / attention / "model.pte"
    loaded = load_model(read_checkpoint(checkpoint, LENGTH, "float32"))
    write_program(export_for_runner(loaded, BACKENDS["portable"], Mode.DYNAMIC, attention=attention), path)
    return path


@pytest.fixture(scope="module")
def program(checkpoint: Path) -> Path:
    return _program(checkpoint, PORTABLE)


def _generated(checkpoint: Path, ids: tuple[int, ...], most: int) -> tuple[int, ...]:
    """What Transformers answers."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    answered = model.generate(torch.tensor([ids]), max_new_tokens=most, do_sample=False)
    return tuple(answered[0, len(ids) :].tolist())


def _written(directory: Path, ids: tuple[int, ...]) -> bytes:
    """In UTF-8, with a mark in place of parts of characters that are not followed by the others."""
    reader = load_reader(directory)
    return b"".join(written_by_runner(reader, token) for token in ids).decode(errors="replace").encode()


def _with_template(directory: Path, template: str = TEMPLATE) -> Path:
    write_tokenizer(directory, VOCAB)
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}), encoding="utf-8")
    return directory


def test_answer_is_that_of_transformers(checkpoint: Path, program: Path, capfdbinary: Shown) -> None:
    expected = _written(checkpoint, _generated(checkpoint, read_by(load_original(checkpoint), "naïve café"), 9))
    capfdbinary.readouterr()  # bars of Transformers
    chat(Chat(program, checkpoint, most=9), ["naïve café", RESET, "naïve café"])
    shown = capfdbinary.readouterr()
    assert shown.out.startswith(expected + b"\n[")
    assert len(re.findall(rb"\[.*tokens/s of the answer\]\n", shown.out)) == 2
    assert shown.out.count(expected) == 2
    assert shown.err == b""


def test_answer_by_the_operators_of_executorch_is_that_too(checkpoint: Path, capfdbinary: Shown) -> None:
    program = _program(checkpoint, CUSTOM)
    expected = _written(checkpoint, _generated(checkpoint, read_by(load_original(checkpoint), "naïve café"), 9))
    capfdbinary.readouterr()
    chat(Chat(program, checkpoint, most=9), ["naïve café"])
    assert capfdbinary.readouterr().out.startswith(expected + b"\n[")


def test_a_text_begins_as_in_transformers(checkpoint: Path, program: Path, tmp_path: Path, capfdbinary: Shown) -> None:
    changed(tmp_path, VOCAB, begin_with("<s> $A"))
    ids = read_by(load_original(tmp_path), "Once upon a time", opening=True)
    assert ids[0] == 0
    first = _generated(checkpoint, ids, 5)
    second = _generated(checkpoint, (*ids, *first[:-1], *read_by(load_original(tmp_path), " moon")), 5)
    capfdbinary.readouterr()
    chat(Chat(program, tmp_path / "tokenizer.json", most=5), ["Once upon a time", " moon"])
    shown = capfdbinary.readouterr()
    assert shown.out.startswith(_written(tmp_path, first) + b"\n[")
    assert b"]\n" + _written(tmp_path, second) + b"\n[" in shown.out
    assert shown.err.decode().startswith("note: num_bos=1 is set: ")
    assert shown.err.count(b"\n") == 1


def test_prompts_are_put_into_the_words_of_the_template(
    checkpoint: Path, program: Path, tmp_path: Path, capfdbinary: Shown
) -> None:
    original = load_original(_with_template(tmp_path))
    asked = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "moon"}]
    first = _generated(checkpoint, read_by(original, render(original, asked)), 3)
    capfdbinary.readouterr()
    chat(Chat(program, tmp_path, most=3, template=True, system="Be short."), ["moon", "Go"])
    shown = capfdbinary.readouterr()
    assert shown.out.startswith(_written(tmp_path, first) + b"\n[")
    assert shown.err == b""


def _described(length: int, rows: int = 1) -> ProgramFile:
    return ProgramFile(Path("m.pte"), rows, length, Mode.DYNAMIC, CallShape(), (rows, length, 128), "float32")


class _Tokens:
    """A token is a character, and 0 the end."""

    opening = Opening()
    original = reader = None

    def id_of(self, piece: str) -> int:
        return ord(piece)

    def written(self, token: int) -> bytes:
        return chr(token).encode()

    def text(self, ids: Any) -> str:
        return "".join(map(chr, ids))

    def ends(self, program: ProgramFile) -> tuple[int, ...]:
        return (ord("."),)


class _Runner:
    """Answers "Yes.", a token a character; says what it was sent, and may fail."""

    def __init__(self, answer: str = "Yes.", error: str = "") -> None:
        self.sent: list[str] = []
        self._answer, self._error = answer, error

    def generate(self, text: str, config: Any, show: Callable[[str], None], tell: Callable[[Any], None]) -> None:
        self.sent.append(text)
        for piece in self._answer:
            show(piece)
        if self._error:
            os.write(2, self._error.encode())
            raise RuntimeError("Generation failed")

    def reset(self) -> None:
        self.sent.append(RESET)


@pytest.fixture
def conversation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Makes a conversation with a runner that is not there."""

    def read(_: Any, text: str, num_bos: int = 0, *, opening: bool = False) -> tuple[int, ...]:
        return tuple(map(ord, text))

    monkeypatch.setattr(reading, "read_by_runner", read)
    monkeypatch.setattr(reading, "read_by", read)
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)

    def begin(runner: _Runner, length: int = 1000, render: Callable[..., str] | None = None) -> Any:
        monkeypatch.setattr(reading, "render", render)
        settings = Chat(tmp_path, tmp_path, template=render is not None)
        output = chatting._Output(1, 2, log)
        monkeypatch.setattr(os, "write", lambda to, text, write=os.write: write(log if to == 2 else to, text))
        tokens: Any = _Tokens()
        return chatting._Conversation(settings, _described(length), tokens, runner, output)

    return begin


def _lines(_: Any, messages: list[dict[str, str]]) -> str:
    return "".join(f"{each['role'][0]}:{each['content']}{'.' * (each['role'][0] == 'a')}\n" for each in messages) + "a:"


def test_only_what_is_new_is_sent_again(conversation: Callable[..., Any]) -> None:
    runner = _Runner()
    talk = conversation(runner, render=_lines)
    talk.answer("One?")
    assert talk.text == "u:One?\na:Yes"  # the end of an answer is not in the cache
    talk.answer("Two?")
    assert runner.sent == ["u:One?\na:", ".\nu:Two?\na:"]
    assert talk.held == len("u:One?\na:Yes.\nu:Two?\na:Yes")
    talk.reset()
    talk.answer("One?")
    assert runner.sent[2:] == [RESET, "u:One?\na:"]


def test_answer_that_was_cut_goes_on_from_its_last_token(conversation: Callable[..., Any]) -> None:
    runner = _Runner("Perhap")
    talk = conversation(runner, render=_lines)
    talk.answer("One?")
    talk.answer("Two?")
    assert runner.sent[1] == "p.\nu:Two?\na:"


def test_template_that_rewrites_what_was_sent_has_all_sent_again(
    conversation: Callable[..., Any], tmp_path: Path
) -> None:
    runner = _Runner()
    talk = conversation(runner, render=lambda original, messages: _lines(original, messages[-1:]))
    talk.answer("One?")
    talk.answer("Two?")
    assert runner.sent == ["u:One?\na:", RESET, "u:Two?\na:"]
    assert "writes earlier turns otherwise than they were sent" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    "length",
    [
        7,  # as long as what is in the cache
        99,
    ],
)
def test_failure_in_an_answer_is_explained(
    conversation: Callable[..., Any], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = conversation(_Runner(error="[x.cpp:1] method->execute() failed with error 0x12\n"), length)
    monkeypatch.setattr(chatting._Conversation, "_no_room", lambda *_: "unused")
    with refused("runner-failed"):
        talk.answer("Four")


def test_a_full_cache_is_reported(checkpoint: Path, program: Path, capfdbinary: Shown) -> None:
    with refused("cache-full"):
        chat(Chat(program, checkpoint), ["Once upon a time", "there was"])
    shown = capfdbinary.readouterr()
    assert b"tokens/s of the answer" in shown.out
    assert shown.err.decode() == f"note: the cache of {LENGTH} tokens is full, which ends the answer\n"


@pytest.mark.parametrize(
    ("prompts", "settings", "code"),
    [
        (["x", ""], {}, "empty-prompt"),
        (["x " * 200], {}, "cache-full"),
        (["x"], {"template": True}, "no-chat-template"),
    ],
)
def test_prompt_that_cannot_be_answered_is_one_sentence(
    checkpoint: Path, program: Path, prompts: list[str], settings: dict[str, Any], code: str, capfdbinary: Shown
) -> None:
    with refused(code):
        chat(Chat(program, checkpoint, most=2, **settings), prompts)
    assert capfdbinary.readouterr().out.count(b"\n[") == len(prompts) - 1


def test_tokenizer_of_another_model_is_seen(program: Path, tmp_path: Path, capfdbinary: Shown) -> None:
    write_tokenizer(tmp_path / "larger", VOCAB + 1)
    with refused("other-model"):
        chat(Chat(program, tmp_path / "larger"), ["x"])
    tokenizers.unigrams(tmp_path / "unigrams", VOCAB)
    with refused("unsupported-tokenizer"):
        chat(Chat(program, tmp_path / "unigrams"), ["x"])
    with refused("no-tokenizer"):
        chat(Chat(program, program), ["x"])
    write_tokenizer(tmp_path / "smaller", VOCAB - 10)
    config = tmp_path / "smaller" / "tokenizer_config.json"
    config.write_text(config.read_text().replace("</s>", "<unused1>"))
    chat(Chat(program, tmp_path / "smaller", most=1), ["x"])
    fewer, ends = capfdbinary.readouterr().err.decode().splitlines()
    assert f"the tokenizer has {VOCAB - 10} ids and the program logits for {VOCAB}" in fewer
    assert f"texts end with [{END}] by the program, and with " in ends


def test_text_that_the_runner_reads_otherwise_is_noted(program: Path, tmp_path: Path, capfdbinary: Shown) -> None:
    tokenizers.composes_accents(tmp_path, VOCAB)
    chat(Chat(program, tmp_path, most=2), ["A moon", "naïve café"])
    noted = capfdbinary.readouterr().err.decode().splitlines()
    assert len(noted) == 1
    assert noted[0].startswith("note: the runner reads 'naïve café' as [")
    assert ", and Transformers as [" in noted[0]


def test_export_prints_how_to_talk_to_a_program_or_why_not(checkpoint: Path, tmp_path: Path) -> None:
    assert "model chat m.pte --tokenizer" in _try_it(Path("m.pte"), checkpoint)
    tokenizers.unigrams(tmp_path, VOCAB)
    assert "the runner cannot read this tokenizer of kind Unigram" in _try_it(Path("m.pte"), tmp_path)


def test_crashed_runner_is_quoted(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*_: object) -> None:
        os.write(2, b"one output was expected\n")
        os.kill(os.getpid(), signal.SIGABRT)

    monkeypatch.setattr(chatting, "_begin", begin)
    with refused("runner-failed"):
        chat(Chat(checkpoint, checkpoint), ["x"])


def test_program_of_several_rows_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.pipeline.program_file.read_program", lambda _: _described(LENGTH, rows=2))
    with refused("unsupported-program"):
        chat(Chat(checkpoint, checkpoint), ["x"])


def test_files_have_to_be_there(tmp_path: Path) -> None:
    with refused("file-error"):
        chat(Chat(tmp_path / "model.pte", tmp_path, most=1), ["x"])
