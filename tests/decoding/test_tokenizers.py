"""Token ids as text and back: with a character for each id, and with a checkpoint's tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytorch_tokenizers import CppHFTokenizer
from tokenizers import Tokenizer

from conformance.core.verdicts import ClauseViolationError
from conformance.decoding import reading
from conformance.decoding.reading import Opening
from conformance.decoding.tokenizers import CharTokenizer, CheckpointTokenizer
from tests.faults.tokenizers import begin_with, changed
from tests.support.checkpoints import END, write_tokenizer

pytestmark = pytest.mark.torch

VOCAB = 400


@pytest.fixture(scope="module")
def checkpoint_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CheckpointTokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory, VOCAB)
    return CheckpointTokenizer(directory, VOCAB)


@pytest.mark.parametrize("vocab", [64, 262_144])
def test_each_id_has_a_letter_which_is_read_back(tmp_path: Path, vocab: int) -> None:
    letters = CharTokenizer(vocab, eos_id=5)
    ids = (3, vocab - 1, 0, 3)
    directory = letters.install(tmp_path)
    assert Tokenizer.from_file(str(directory / "tokenizer.json")).encode(letters.encode_to_text(ids)).ids == list(ids)
    reader = CppHFTokenizer()
    reader.load(str(directory))
    assert reader.encode(letters.encode_to_text(ids), 0, 0) == list(ids)
    assert (reader.vocab_size(), reader.eos_tok()) == (vocab, 5)
    assert [letters.ids_for(reader.decode(token)) for token in ids] == [(token,) for token in ids]


@pytest.mark.parametrize("size", [1, 2, 31, 200])
def test_prompt_of_a_checkpoint_tokenizer_reads_back(checkpoint_tokenizer: CheckpointTokenizer, size: int) -> None:
    prompt = checkpoint_tokenizer.prompt(0, size) or checkpoint_tokenizer.prompt(1, size)
    assert prompt is not None
    written, ids = prompt
    assert len(ids) == size
    reader = CppHFTokenizer()
    reader.load(str(checkpoint_tokenizer.directory))
    assert tuple(reader.encode(written, 0, 0)) == ids


def test_ids_without_text_are_known(checkpoint_tokenizer: CheckpointTokenizer) -> None:
    assert checkpoint_tokenizer.eos_id == END
    assert checkpoint_tokenizer.ids_for("</s>") == (END,)
    assert checkpoint_tokenizer.ids_for("no such word") == ()
    assert len(checkpoint_tokenizer.undecodable_ids) > 100  # the bytes that begin or go on with a character of several
    assert checkpoint_tokenizer.encode_to_text((checkpoint_tokenizer.undecodable_ids[0],)) is None


def test_tokenizer_of_more_ids_than_logits_is_a_violation(checkpoint_tokenizer: CheckpointTokenizer) -> None:
    with pytest.raises(ClauseViolationError, match="read past the end of the logits") as caught:
        CheckpointTokenizer(checkpoint_tokenizer.directory, VOCAB - 1).prompt(0, 3)
    assert caught.value.signature == "load:tokenizer-larger-than-logits"


def test_tokenizer_that_reads_otherwise_than_its_library_is_a_violation(
    checkpoint_tokenizer: CheckpointTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = CheckpointTokenizer(checkpoint_tokenizer.directory, VOCAB)
    assert tokenizer.size == VOCAB
    monkeypatch.setattr(reading, "read_by_runner", lambda *_: (7, 7))
    with pytest.raises(ClauseViolationError, match=r"reads .* as \[7, 7\]") as caught:
        tokenizer.prompt(0, 3)
    assert caught.value.signature == "load:tokenizer-differs"


def test_opening_is_that_of_transformers(checkpoint_tokenizer: CheckpointTokenizer, tmp_path: Path) -> None:
    assert checkpoint_tokenizer.opening == CharTokenizer(64, eos_id=5).opening == Opening()
    changed(tmp_path, VOCAB, begin_with("<s> $A"))
    assert CheckpointTokenizer(tmp_path, VOCAB).opening == Opening((0,), num_bos=1)


def test_opening_that_the_runner_cannot_be_given_is_a_violation(
    checkpoint_tokenizer: CheckpointTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = CheckpointTokenizer(checkpoint_tokenizer.directory, VOCAB)
    assert tokenizer.eos_id == END
    monkeypatch.setattr(reading, "read_by_runner", lambda *_: (7, 7))
    with pytest.raises(ClauseViolationError) as caught:
        tokenizer.opening  # noqa: B018 - it is found when first asked for
    assert caught.value.signature == "load:opening-differs"
