"""Tokenizers for ExecuTorch's LLM runner, whose input and output are text, while the oracle's are token ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

from conformance.core.verdicts import ClauseViolationError, Stage
from conformance.decoding import reading
from conformance.decoding.reading import Difference, Opening, TokenizerError
from conformance.decoding.scripts import text

#: The character of token id 0; id n has the n-th after it. There are 20,000 letters from here on, each a single token.
_FIRST = 0x4E00
_LETTERS = 20_000
#: The same for larger vocabularies: beyond the surrogates, there are a million characters in a row.
_FIRST_OF_MANY = 0x1_0000
#: Text that the prompts for a checkpoint's tokenizer are cut from.
_PROSE = (
    "Once upon a time there was a small model that lived in a phone. It had read many books, and it liked to tell what "
    "was in them. One day a girl asked it how far away the moon is, and it said: about as far as you can walk in ten "
    "years. She thought about that for a while. Then she put on her shoes, packed two apples and a map, and went to "
    "the door. The phone was in her pocket, and the model began to count the steps. "
)


class RunnerTokenizer(Protocol):
    """A tokenizer that the LLM runner loads, and the same mapping between text and token ids in Python."""

    def install(self, directory: Path) -> Path:
        """The path to give to the runner; a tokenizer without files of its own writes them into `directory`."""

    def prompt(self, seed: int, size: int) -> tuple[str, tuple[int, ...]] | None:
        """A prompt of `size` tokens: its text, and the ids that the runner reads it as; None if none was found."""

    def encode_to_text(self, ids: tuple[int, ...]) -> str | None:
        """The text that the runner reads as exactly these ids; None if there is none."""

    def ids_for(self, piece: str) -> tuple[int, ...]:
        """The ids that the runner writes as `piece`."""

    @property
    def undecodable_ids(self) -> tuple[int, ...]:
        """The ids that have no text by themselves, such as the first byte of a character."""

    @property
    def size(self) -> int:
        """Number of ids that the tokenizer has for the runner, which chooses among these."""

    @property
    def eos_id(self) -> int:
        """The id that ends a text if the program names none."""

    @property
    def opening(self) -> Opening:
        """What the first prompt of a conversation has beside its text."""


@dataclass(frozen=True, slots=True)
class CharTokenizer:
    """A tokenizer with one character for each id and no merges, so that any ids can be written as text and read back.

    The runner takes the vocabulary's size from the tokenizer: with fewer ids than logits it would not see the others,
    and with more it would read past the end of the logits.

    Args:
        vocab: Number of token ids.
        eos_id: The tokenizer's end of text, which the runner uses if the program names none.
    """

    vocab: int
    eos_id: int

    def install(self, directory: Path) -> Path:
        """See `RunnerTokenizer.install`."""
        letters = [self.letter(token) for token in range(self.vocab)]
        tokenizer = Tokenizer(models.BPE(vocab={letter: token for token, letter in enumerate(letters)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        # The runner looks for the end of text among the special tokens, and takes id 0 for it if it finds none.
        tokenizer.add_special_tokens([AddedToken(letters[self.eos_id], normalized=False, special=True)])
        tokenizer.save(str(directory / "tokenizer.json"))
        config = json.dumps({"eos_token": letters[self.eos_id]})
        (directory / "tokenizer_config.json").write_text(config, encoding="utf-8")
        return directory

    def prompt(self, seed: int, size: int) -> tuple[str, tuple[int, ...]]:
        """See `RunnerTokenizer.prompt`."""
        ids = text(seed, size, self.vocab)
        return self.encode_to_text(ids), ids

    def encode_to_text(self, ids: tuple[int, ...]) -> str:
        """See `RunnerTokenizer.encode_to_text`."""
        return "".join(map(self.letter, ids))

    def ids_for(self, piece: str) -> tuple[int, ...]:
        """See `RunnerTokenizer.ids_for`."""
        return (ord(piece) - self._first,) if len(piece) == 1 else ()

    @property
    def undecodable_ids(self) -> tuple[int, ...]:
        """See `RunnerTokenizer.undecodable_ids`."""
        return ()

    @property
    def size(self) -> int:
        """See `RunnerTokenizer.size`."""
        return self.vocab

    @property
    def opening(self) -> Opening:
        """See `RunnerTokenizer.opening`."""
        return Opening()

    def letter(self, token: int) -> str:
        """The character that stands for `token`."""
        return chr(self._first + token)

    @property
    def _first(self) -> int:
        return _FIRST if self.vocab <= _LETTERS else _FIRST_OF_MANY


@dataclass(frozen=True)
class CheckpointTokenizer:
    """A checkpoint's own tokenizer, read with the code that the runner reads it with.

    Args:
        directory: Holds `tokenizer.json`, and `tokenizer_config.json` with the names of the special tokens.
        vocab: Number of the model's token ids.
    """

    directory: Path
    vocab: int
    _prompts: dict[tuple[int, int], tuple[str, tuple[int, ...]] | None] = field(default_factory=dict)

    def install(self, directory: Path) -> Path:
        """See `RunnerTokenizer.install`."""
        del directory
        return self.directory

    def prompt(self, seed: int, size: int) -> tuple[str, tuple[int, ...]] | None:
        """See `RunnerTokenizer.prompt`."""
        if (seed, size) not in self._prompts:
            self._prompts[seed, size] = self._cut(seed, size)
        return self._prompts[seed, size]

    def encode_to_text(self, ids: tuple[int, ...]) -> str | None:
        """See `RunnerTokenizer.encode_to_text`."""
        try:
            decoded: str = self._reader.decode_batch(list(ids))
        except (ValueError, RuntimeError):  # parts of characters, or an id that nothing stands for
            return None
        return decoded if self._read(decoded) == ids else None

    def ids_for(self, piece: str) -> tuple[int, ...]:
        """See `RunnerTokenizer.ids_for`."""
        return self._ids.get(piece, ())

    @cached_property
    def undecodable_ids(self) -> tuple[int, ...]:
        """See `RunnerTokenizer.undecodable_ids`."""
        decodable = {token for ids in self._ids.values() for token in ids}
        return tuple(token for token in range(self._reader.vocab_size()) if token not in decodable)

    @property
    def eos_id(self) -> int:
        """See `RunnerTokenizer.eos_id`."""
        return int(self._reader.eos_tok())

    @property
    def size(self) -> int:
        """See `RunnerTokenizer.size`."""
        return int(self._reader.vocab_size())

    @cached_property
    def opening(self) -> Opening:
        """See `RunnerTokenizer.opening`; as Transformers' tokenizer gives it, called with a text alone.

        Raises:
            ClauseViolationError: The runner cannot be given it.
        """
        try:
            return reading.find_opening(self._original, self._reader)
        except TokenizerError as error:
            wanted = "an opening that the post-processor in tokenizer.json adds, or that is written in special tokens"
            raise _violation("opening-differs", str(error), wanted) from error

    def differences(self) -> list[Difference]:
        """Where the runner reads or writes a text of the corpus otherwise than Transformers; reading comes first."""
        found = reading.differences(self._original, self._reader, reading.corpus(self._original, self.vocab))
        return sorted(found, key=lambda each: not each.reads)

    def chat_prompt(self) -> tuple[str, tuple[int, ...]] | None:
        """A question as the chat template renders it, if there is one: its text and ids."""
        asked = next(reading.chat_texts(self._original), None)
        ids = asked and self._read(asked.text)
        return (asked.text, ids) if asked and ids else None

    @cached_property
    def _reader(self) -> Any:
        try:
            reading.require_readable(self.directory)
            reader = reading.load_reader(self.directory)
        except TokenizerError as error:
            raise _violation("tokenizer-not-read", str(error), "a tokenizer that the runner reads") from error
        if reader.vocab_size() > self.vocab:
            raise _violation(
                "tokenizer-larger-than-logits",
                f"the tokenizer has {reader.vocab_size()} ids and the model {self.vocab}: the runner would read past "
                "the end of the logits",
                f"at most {self.vocab} ids",
            )
        return reader

    @cached_property
    def _original(self) -> Any:
        return reading.load_original(self.directory)

    @cached_property
    def _ids(self) -> Mapping[str, tuple[int, ...]]:
        by_piece: dict[str, list[int]] = {}
        for token in range(self._reader.vocab_size()):
            try:
                by_piece.setdefault(self._reader.decode(token), []).append(token)
            except (ValueError, RuntimeError):  # a part of a character, or an id that nothing stands for
                continue
        return {piece: tuple(ids) for piece, ids in by_piece.items()}

    def _read(self, decoded: str) -> tuple[int, ...] | None:
        """The ids that the runner reads a text as; None if the tokenizer does not know all of its characters.

        Raises:
            ClauseViolationError: Transformers reads the text as other ids.
        """
        ids = reading.read_by_runner(self._reader, decoded)
        if ids is None:
            return None
        expected = reading.read_by(self._original, decoded)
        if ids != expected:
            raise _violation("tokenizer-differs", f"the runner reads {decoded!r} as {list(ids)}", f"{list(expected)}")
        return ids

    def _cut(self, seed: int, size: int) -> tuple[str, tuple[int, ...]] | None:
        words = _PROSE.split(" ")
        start = seed * 7 % len(words)
        prose = " ".join([*words[start:], *words[:start]]) * (1 + size * 8 // len(_PROSE))
        if self._read(prose) is None:  # the tokenizer does not know English
            drawn = text(seed, size, self.vocab)
            decoded = self.encode_to_text(drawn)
            return None if decoded is None else (decoded, drawn)
        low, high = 1, len(prose)
        while low < high:  # the longer the text, the more tokens, but for a few places where a word is completed
            middle = (low + high) // 2
            low, high = (middle + 1, high) if len(self._read(prose[:middle]) or ()) < size else (low, middle)
        ids = self._read(prose[:low]) or ()
        return (prose[:low], ids) if len(ids) == size else None


def _violation(code: str, observed: str, expected: str) -> ClauseViolationError:
    return ClauseViolationError(Stage.LOAD, code, observed=observed, expected=expected)
