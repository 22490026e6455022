"""Token ids as text and back: a letter for each, or as the model's own tokenizer has it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytorch_tokenizers import CppHFTokenizer
from tokenizers import Tokenizer

from conformance.core.verdicts import ClauseViolationError, NotApplicableError
from conformance.decoding.tokenizers import CharTokenizer, CheckpointTokenizer, tokenizer_of
from tests.support.checkpoints import END, write_tokenizer

pytestmark = pytest.mark.torch

VOCAB = 400


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> CheckpointTokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory, VOCAB)
    return CheckpointTokenizer(directory, VOCAB)


@pytest.mark.parametrize("vocab", [64, 262_144])
def test_each_id_has_a_letter_which_is_read_back(tmp_path: Path, vocab: int) -> None:
    letters = CharTokenizer(vocab, end=5)
    ids = (3, vocab - 1, 0, 3)
    place = letters.place(tmp_path)
    assert Tokenizer.from_file(str(place / "tokenizer.json")).encode(letters.spelled(ids)).ids == list(ids)
    reader = CppHFTokenizer()
    reader.load(str(place))
    assert reader.encode(letters.spelled(ids), 0, 0) == list(ids)
    assert (reader.vocab_size(), reader.eos_tok()) == (vocab, 5)
    assert [letters.meanings(reader.decode(token)) for token in ids] == [(token,) for token in ids]


@pytest.mark.parametrize("size", [1, 2, 31, 200])
def test_prompt_of_an_own_tokenizer_reads_back(own: CheckpointTokenizer, size: int) -> None:
    found = own.prompt(0, size) or own.prompt(1, size)
    assert found is not None
    written, ids = found
    assert len(ids) == size
    reader = CppHFTokenizer()
    reader.load(str(own.directory))
    assert tuple(reader.encode(written, 0, 0)) == ids


def test_ids_without_words_are_known(own: CheckpointTokenizer) -> None:
    assert own.end == END
    assert own.meanings("</s>") == (END,)
    assert own.meanings("no such word") == ()
    assert len(own.wordless) > 100  # the bytes that begin or go on with a character of several
    assert own.spelled((own.wordless[0],)) is None


def test_tokenizer_of_more_ids_than_logits_is_a_violation(own: CheckpointTokenizer) -> None:
    with pytest.raises(ClauseViolationError, match="read on behind the logits") as caught:
        CheckpointTokenizer(own.directory, VOCAB - 1).prompt(0, 3)
    assert caught.value.signature == "load:tokenizer-larger-than-logits"


def test_tokenizer_that_reads_otherwise_than_its_library_is_a_violation(
    own: CheckpointTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CppHFTokenizer, "encode", lambda *_: [7, 7])
    with pytest.raises(ClauseViolationError, match=r"reads .* as \[7, 7\]") as caught:
        CheckpointTokenizer(own.directory, VOCAB).prompt(0, 3)
    assert caught.value.signature == "load:tokenizer-differs"


def test_checkpoint_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError, match=r"no tokenizer\.json"):
        tokenizer_of(tmp_path, VOCAB)
