"""What the runner's reader makes of text, held against Transformers, and tokenizers that it cannot read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from conformance.decoding import reading
from conformance.decoding.reading import (
    Opening,
    Text,
    corpus,
    differences,
    find_opening,
    has_tokenizer,
    load_original,
    load_reader,
    read_by,
    render,
    require_readable,
)
from tests.faults.tokenizers import VOCAB, begin_with, changed, unigrams
from tests.support.checkpoints import write_tokenizer
from tests.support.messages import refused

pytestmark = pytest.mark.torch

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plain")
    write_tokenizer(directory, VOCAB)
    return directory


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("chatting")
    write_tokenizer(directory, VOCAB)
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}), encoding="utf-8")
    return directory


def test_byte_pairs_are_read_and_written_alike(chatting: Path) -> None:
    original = load_original(chatting)
    texts = list(corpus(original, VOCAB))
    assert not list(differences(original, load_reader(chatting), texts))
    kinds = {each.kind for each in texts}
    assert {"accents", "digits", "tabs", "trailing newlines", "double spaces", "emoji", "Thai", "code"} <= kinds
    assert Text("chat template", "<s><|user|>How far is the café?</s><|assistant|>") in texts
    special = [each.text for each in texts if each.kind == "special tokens"]
    assert {"<s>", "a</s>b", "One </s> two"} <= set(special)
    assert {"cafe\u0301", "caf\u00e9"} <= {word for each in texts for word in each.text.split()}


class _SkipsTheEnd:
    """A reader that takes the end of a text for characters."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def encode(self, text: str, num_bos: int, num_eos: int) -> list[int]:
        ids: list[int] = self._reader.encode(text, num_bos, num_eos)
        return [token for token in ids if token != 1]

    def decode(self, token: int) -> str:
        return str(self._reader.decode(token))


def test_reader_that_skips_a_special_token_is_seen(plain: Path) -> None:
    original = load_original(plain)
    found = list(differences(original, _SkipsTheEnd(load_reader(plain)), corpus(original, VOCAB)))
    assert {each.kind for each in found} == {"special tokens"}
    assert all(each.reads for each in found)
    assert found[0].observed == "the runner reads '</s>' as []"
    assert found[0].expected == "[1], as Transformers"


@pytest.mark.parametrize(
    ("single", "before", "after"), [("<s> $A", (0,), ()), ("$A </s>", (), (1,)), ("<s> <s> $A </s>", (0, 0), (1,))]
)
def test_opening_is_added_by_the_runner(
    tmp_path: Path, single: str, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    changed(tmp_path, VOCAB, begin_with(single))
    original = load_original(tmp_path)
    opening = find_opening(original, load_reader(tmp_path))
    assert opening == Opening(before, after, num_bos=1)
    assert str(opening) == "num_bos=1"
    assert opening.ids(read_by(original, "moon")) == read_by(original, "moon", opening=True)


def test_opening_that_is_not_in_tokenizer_json_is_written(tmp_path: Path, plain: Path) -> None:
    assert find_opening(load_original(plain), load_reader(plain)) == Opening()
    changed(tmp_path, VOCAB, begin_with("<s> $A </s>"))  # as rules of a tokenizer's class in Transformers add it
    opening = find_opening(load_original(tmp_path), load_reader(plain))
    assert opening == Opening((0,), (1,), prefix="<s>", suffix="</s>")
    assert str(opening) == "<s> in front of the prompt's text and </s> behind it"


def test_an_opening_that_the_runner_cannot_read_is_an_error(tmp_path: Path, plain: Path) -> None:
    changed(tmp_path, VOCAB, begin_with("$A </s>"))
    with refused("tokenizer-differs"):
        find_opening(load_original(tmp_path), _SkipsTheEnd(load_reader(plain)))


def test_a_chat_template_is_rendered_or_reported_missing(chatting: Path, plain: Path) -> None:
    asked = [{"role": "system", "content": "Short."}, {"role": "user", "content": "Far?"}]
    assert render(load_original(chatting), asked) == "<s><|system|>Short.</s><|user|>Far?</s><|assistant|>"
    with refused("no-chat-template"):
        render(load_original(plain), asked)
    original = load_original(chatting)
    original.chat_template = "{{ raise_exception('no system') }}"
    with refused("chat-template-failed"):
        render(original, asked)


def test_unreadable_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    with refused("no-tokenizer"):
        require_readable(tmp_path)
    assert not has_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").touch()
    assert has_tokenizer(tmp_path)
    with refused("no-tokenizer"):
        require_readable(tmp_path)
    unigrams(tmp_path, VOCAB)
    with refused("unsupported-tokenizer"):
        require_readable(tmp_path)
    changed(tmp_path, VOCAB, lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.BertPreTokenizer()))
    with refused("unsupported-tokenizer"):
        require_readable(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with refused("unsupported-tokenizer"):
        require_readable(tmp_path)


def test_tokenizer_that_transformers_cannot_use_is_one_sentence(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Unk token `<unk>` not found in the vocabulary")

    monkeypatch.setattr(reading, "load_original", lambda _: fail)
    with refused("unsupported-tokenizer"):
        require_readable(plain)


def test_reader_that_aborts_ends_a_process_of_its_own(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "load_reader", lambda _: os.abort())
    with refused("unsupported-tokenizer"):
        require_readable(plain)


def test_reader_of_another_kind_of_model_is_seen(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "read_by_runner", lambda *_: (7, 7))
    with refused("unsupported-tokenizer"):
        require_readable(plain)
