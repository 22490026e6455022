"""How token ids become the text that an LLM runner is given, and its answers become token ids again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

from conformance.core.verdicts import ClauseViolationError, NotApplicableError, Stage
from conformance.decoding.scripts import text

#: The character of token id 0; id n has the n-th after it. There are 20,000 letters from here on, each a single token.
_FIRST = 0x4E00
_LETTERS = 20_000
#: The same for larger vocabularies: beyond the surrogates, there are a million characters in a row.
_FIRST_OF_MANY = 0x1_0000
#: What prompts for a tokenizer of somebody else's are cut from.
_PROSE = (
    "Once upon a time there was a small model that lived in a phone. It had read many books, and it liked to tell what "
    "was in them. One day a girl asked it how far away the moon is, and it said: about as far as you can walk in ten "
    "years. She thought about that for a while. Then she put on her shoes, packed two apples and a map, and went to "
    "the door. The phone was in her pocket, and the model began to count the steps. "
)


class RunnerTokenizer(Protocol):
    """What an LLM runner needs to read and to write, and what its words mean."""

    def place(self, directory: Path) -> Path:
        """Where the runner finds the tokenizer; it may be written into `directory`."""

    def prompt(self, seed: int, size: int) -> tuple[str, tuple[int, ...]] | None:
        """A prompt of `size` tokens, as text and as the ids that the runner makes of it; None where there is none."""

    def spelled(self, ids: tuple[int, ...]) -> str | None:
        """The text that the runner reads as just these ids; None where there is none."""

    def meanings(self, piece: str) -> tuple[int, ...]:
        """The ids that the runner writes as `piece`."""

    @property
    def wordless(self) -> tuple[int, ...]:
        """The ids that are no text by themselves, such as the first byte of a character."""

    @property
    def end(self) -> int:
        """The id that ends a text, where the program names none."""


@dataclass(frozen=True, slots=True)
class CharTokenizer:
    """A tokenizer with one letter for each id, nothing merged: any ids can be written, and read back.

    The runner takes the vocabulary's size from the tokenizer: with fewer ids than logits it would not see the others,
    and with more it would read on behind them.

    Args:
        vocab: Number of token ids.
        end: The id that ends a text by the tokenizer, which counts where the program names none.
    """

    vocab: int
    end: int

    def place(self, directory: Path) -> Path:
        """See `Spelling.place`."""
        letters = [self.letter(token) for token in range(self.vocab)]
        tokenizer = Tokenizer(models.BPE(vocab={letter: token for token, letter in enumerate(letters)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        # The runner looks for the end of text among the special tokens, and takes id 0 for it if it finds none.
        tokenizer.add_special_tokens([AddedToken(letters[self.end], normalized=False, special=True)])
        tokenizer.save(str(directory / "tokenizer.json"))
        config = json.dumps({"eos_token": letters[self.end]})
        (directory / "tokenizer_config.json").write_text(config, encoding="utf-8")
        return directory

    def prompt(self, seed: int, size: int) -> tuple[str, tuple[int, ...]]:
        """See `Spelling.prompt`."""
        ids = text(seed, size, self.vocab)
        return self.spelled(ids), ids

    def spelled(self, ids: tuple[int, ...]) -> str:
        """See `Spelling.spelled`."""
        return "".join(map(self.letter, ids))

    def meanings(self, piece: str) -> tuple[int, ...]:
        """See `Spelling.meanings`."""
        return (ord(piece) - self._first,) if len(piece) == 1 else ()

    @property
    def wordless(self) -> tuple[int, ...]:
        """See `Spelling.wordless`."""
        return ()

    def letter(self, token: int) -> str:
        """What `token` is written as."""
        return chr(self._first + token)

    @property
    def _first(self) -> int:
        return _FIRST if self.vocab <= _LETTERS else _FIRST_OF_MANY


@dataclass(frozen=True)
class CheckpointTokenizer:
    """A model's own tokenizer, read by the code that the runner reads it with.

    Args:
        directory: Holds `tokenizer.json`, and `tokenizer_config.json` with the names of the special tokens.
        vocab: Number of the model's token ids.
    """

    directory: Path
    vocab: int
    _prompts: dict[tuple[int, int], tuple[str, tuple[int, ...]] | None] = field(default_factory=dict)

    def place(self, directory: Path) -> Path:
        """See `Spelling.place`."""
        del directory
        return self.directory

    def prompt(self, seed: int, size: int) -> tuple[str, tuple[int, ...]] | None:
        """See `Spelling.prompt`."""
        if (seed, size) not in self._prompts:
            self._prompts[seed, size] = self._cut(seed, size)
        return self._prompts[seed, size]

    def spelled(self, ids: tuple[int, ...]) -> str | None:
        """See `Spelling.spelled`."""
        try:
            written: str = self._reader.decode_batch(list(ids))
        except (UnicodeDecodeError, RuntimeError):  # parts of characters, or an id that nothing stands for
            return None
        return written if self._read(written) == ids else None

    def meanings(self, piece: str) -> tuple[int, ...]:
        """See `Spelling.meanings`."""
        return self._ids.get(piece, ())

    @cached_property
    def wordless(self) -> tuple[int, ...]:
        """See `Spelling.wordless`."""
        words = {token for ids in self._ids.values() for token in ids}
        return tuple(token for token in range(self._reader.vocab_size()) if token not in words)

    @property
    def end(self) -> int:
        """See `Spelling.end`."""
        return int(self._reader.eos_tok())

    @cached_property
    def _reader(self) -> Any:
        from pytorch_tokenizers import CppHFTokenizer

        reader = CppHFTokenizer()
        try:
            reader.load(str(self.directory))
        except Exception as error:  # it raises what its C++ code raises
            raise _violation(
                "tokenizer-not-read", f"its tokenizer.json cannot be read: {error}", "one that can"
            ) from error
        if reader.vocab_size() > self.vocab:
            raise _violation(
                "tokenizer-larger-than-logits",
                f"the tokenizer has {reader.vocab_size()} ids, and the model {self.vocab}: the runner would read on "
                "behind the logits",
                f"at most {self.vocab} ids",
            )
        return reader

    @cached_property
    def _original(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.directory / "tokenizer.json"))

    @cached_property
    def _ids(self) -> Mapping[str, tuple[int, ...]]:
        found: dict[str, list[int]] = {}
        for token in range(self._reader.vocab_size()):
            try:
                found.setdefault(self._reader.decode(token), []).append(token)
            except (UnicodeDecodeError, RuntimeError):  # a part of a character, or an id that nothing stands for
                continue
        return {piece: tuple(ids) for piece, ids in found.items()}

    def _read(self, written: str) -> tuple[int, ...] | None:
        """The ids of a text: what the runner makes of it, which must be what the tokenizer's own library does.

        None where the tokenizer does not know all of its characters.
        """
        try:
            ids = tuple(self._reader.encode(written, 0, 0))
        except RuntimeError:
            return None
        meant = tuple(self._original.encode(written, add_special_tokens=False).ids)
        if ids != meant:
            raise _violation("tokenizer-differs", f"the runner reads {written!r} as {list(ids)}", f"{list(meant)}")
        return ids

    def _cut(self, seed: int, size: int) -> tuple[str, tuple[int, ...]] | None:
        words = _PROSE.split(" ")
        start = seed * 7 % len(words)
        prose = " ".join([*words[start:], *words[:start]]) * (1 + size * 8 // len(_PROSE))
        if self._read(prose) is None:  # no tokenizer of English
            drawn = text(seed, size, self.vocab)
            written = self.spelled(drawn)
            return None if written is None else (written, drawn)
        low, high = 1, len(prose)
        while low < high:  # the longer the text, the more tokens, but for a few places where a word is completed
            middle = (low + high) // 2
            low, high = (middle + 1, high) if len(self._read(prose[:middle]) or ()) < size else (low, middle)
        ids = self._read(prose[:low]) or ()
        return (prose[:low], ids) if len(ids) == size else None


def tokenizer_of(directory: Path, vocab: int) -> CheckpointTokenizer:
    """The tokenizer of the checkpoint in `directory`.

    Raises:
        NotApplicableError: It has none that is read here.
    """
    if not (directory / "tokenizer.json").is_file():
        raise NotApplicableError(
            f"{directory.name} has no tokenizer.json; save it with its tokenizer, as `AutoTokenizer` loads it"
        )
    return CheckpointTokenizer(directory, vocab)


def _violation(code: str, observed: str, expected: str) -> ClauseViolationError:
    return ClauseViolationError(Stage.LOAD, code, observed=observed, expected=expected)
