"""Codes, sentences and tests of errors belong together, and the documentation lists them."""

from __future__ import annotations

import pytest

from conformance.core.errors import InputError, code_of, with_code
from conformance.core.paths import ROOT
from tests.support.messages import MESSAGES, PAGE, WRITE, codes_in_tests, errors_page, messages, raised_codes, refused

pytestmark = pytest.mark.unit


def test_each_code_has_a_sentence_and_each_sentence_a_code() -> None:
    assert {code for code, known in messages().items() if known.sentences} == raised_codes()


def test_each_code_has_what_to_do() -> None:
    assert [code for code, known in messages().items() if not known.step.endswith(".")] == []


def test_each_code_has_a_test() -> None:
    assert raised_codes() <= codes_in_tests()


def test_sentences_name_no_folder_of_this_machine() -> None:
    text = MESSAGES.read_text("utf-8")
    assert not [name for name in ("/tmp/", "/home/", str(ROOT)) if name in text]


def test_the_page_is_what_is_written() -> None:
    assert PAGE.read_text("utf-8") == errors_page()


def test_an_error_has_the_code_of_its_cause() -> None:
    error = RuntimeError("outer")
    error.__cause__ = InputError("invalid-shard", "inner")
    assert code_of(error) == "invalid-shard"
    assert with_code(error) == "[invalid-shard] outer"
    assert with_code(RuntimeError("plain")) == "plain"


def test_another_code_or_sentence_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WRITE, raising=False)
    other = pytest.raises(AssertionError, match=r"expected \[invalid-shard\], got \[invalid-json\]")
    with other, refused("invalid-shard"):
        raise InputError("invalid-json", "x")
    with pytest.raises(AssertionError, match="lacks this sentence of invalid-shard"), refused("invalid-shard"):
        raise InputError("invalid-shard", "no such sentence")
