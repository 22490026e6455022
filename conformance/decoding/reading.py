"""How ExecuTorch's LLM runner reads and writes text, held against Transformers with the same tokenizer."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from conformance.core.errors import InputError
from conformance.core.time_scale import scaled
from conformance.process.fork import collect, ending

#: The tokenizers that the runner reads, for messages.
RUNNER_READS = "ExecuTorch's LLM runner needs a tokenizer.json of kind BPE"
#: Files of tokenizers without a tokenizer.json: SentencePiece, tiktoken, tekken, and those of one Python class each.
_OTHER_FILES = ("*.model", "*.spm", "*.tiktoken", "tekken.json", "vocab.*", "merges.txt")
#: Seconds for loading a tokenizer and reading a few texts; a vocabulary of 256,000 takes two.
_SECONDS = scaled(120)
#: Texts that any tokenizer has to read alike: one that reads all of them otherwise is of another kind.
_PLAIN = ("Once upon a time", "the moon", "A girl asked how far away it is.")
#: Text whose parts a template wraps.
_QUESTION, _REPLY, _NEXT = "How far is the café?", "Two miles.", "And  back?\n"
_SYSTEM = "You answer in one line."

_UNKNOWN = "unknown"

Message = Mapping[str, str]


class TokenizerError(InputError):
    """The runner cannot read a tokenizer, or cannot be given what Transformers gives to the model."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What Transformers puts around a text by itself, and how the runner's caller asks for it.

    Only the first prompt of a conversation has it. ExecuTorch 1.5.1 adds the tokens of the post-processor in
    tokenizer.json where `num_bos` or `num_eos` is positive, whatever the number, and nothing where there is none.

    Args:
        before, after: The ids in front of the text's own and behind them.
        num_bos: For `GenerationConfig`.
        prefix, suffix: What has to be written in front of the prompt's text and behind it.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    num_bos: int = 0
    prefix: str = ""
    suffix: str = ""

    def __str__(self) -> str:
        parts = [f"num_bos={self.num_bos}"] if self.num_bos else []
        parts += [f"{self.prefix} in front of the prompt's text"] if self.prefix else []
        parts += [f"{self.suffix} behind it"] if self.suffix else []
        return " and ".join(parts)

    def text(self, bare: str) -> str:
        """What to give to the runner for a first prompt of this text."""
        return f"{self.prefix}{bare}{self.suffix}"

    def ids(self, bare: tuple[int, ...]) -> tuple[int, ...]:
        """The ids of a first prompt whose own ids are these."""
        return (*self.before, *bare, *self.after)


@dataclass(frozen=True, slots=True)
class Text:
    """A text to read, and what kind of text it is."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A text that the runner reads, or ids that it writes, otherwise than Transformers.

    Args:
        kind: Of the text.
        observed: What the runner does, as a sentence.
        expected: The same of Transformers.
        reads: Whether it is about reading: the model is given another text. If not, its answer is shown as another.
    """

    kind: str
    observed: str
    expected: str
    reads: bool


def has_tokenizer(directory: Path) -> bool:
    """Whether any tokenizer's files are in the directory, be it one that the runner reads or not."""
    return (directory / "tokenizer.json").is_file() or bool(_other_files(directory))


def load_reader(directory: Path) -> Any:
    """The very code that the runner reads a directory's tokenizer.json with.

    Raises:
        TokenizerError: It does not load it. It may also abort; `require_readable` tries it in a child process.
    """
    from pytorch_tokenizers import CppHFTokenizer

    reader = CppHFTokenizer()
    try:
        reader.load(str(directory))
    except Exception as error:  # it raises what its C++ code raises
        raise TokenizerError("unsupported-tokenizer", f"{error}") from error
    return reader


def load_original(directory: Path) -> Any:
    """A directory's tokenizer in Transformers; without code of the directory's own.

    Raises:
        TokenizerError: Transformers does not load it either.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        return AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except Exception:  # it raises what a tokenizer's class raises; 4.57 needs a config.json as well
        try:
            return PreTrainedTokenizerFast.from_pretrained(str(directory), local_files_only=True)
        except Exception as error:
            raise TokenizerError(
                "unsupported-tokenizer", f"Transformers cannot load the tokenizer either: {_first_line(error)}"
            ) from error


def require_readable(directory: Path) -> None:
    """Have the runner's reader load a directory's tokenizer and read a few texts, in a child process.

    Raises:
        TokenizerError: It does not, or reads none of them as Transformers does: one sentence on which kind of tokenizer
            it is, and what the runner reads.
    """
    if not (directory / "tokenizer.json").is_file():
        others = _other_files(directory)
        if not others:
            raise TokenizerError("no-tokenizer", f"{directory} has no tokenizer; {RUNNER_READS}")
        raise TokenizerError("no-tokenizer", f"{directory} has {others[0]} and no tokenizer.json; {RUNNER_READS}")
    with tempfile.TemporaryFile() as log:
        read, code = collect(lambda: _trial(directory), output=log.fileno(), seconds=_SECONDS)
        log.seek(0)
        printed = log.read().decode(errors="replace")
    if code or not read:
        _refuse(directory, f"its reader {ending(code)}")
    if isinstance(read[0], str):
        _refuse(directory, _reason(printed) or read[0])
    original = load_original(directory)
    try:
        expected = [read_by(original, text) for text in _PLAIN]
    except Exception as error:  # the tokenizers package raises no other kind
        raise TokenizerError(
            "unsupported-tokenizer", f"Transformers cannot read a text with this tokenizer: {error}"
        ) from error
    if not any(ids == wanted for ids, wanted in zip(read, expected, strict=True)):
        _refuse(directory, f"it reads {_PLAIN[0]!r} as {_list(read[0])}, Transformers as {_list(expected[0])}")


def read_by(original: Any, text: str, *, opening: bool = False) -> tuple[int, ...]:
    """The ids of a text in Transformers; with the `opening`, those that a model is given for it by default."""
    return tuple(original(text, add_special_tokens=opening)["input_ids"])


def read_by_runner(reader: Any, text: str, num_bos: int = 0) -> tuple[int, ...] | None:
    """The ids of a text in the runner; None where the tokenizer does not know all of its characters."""
    try:
        return tuple(reader.encode(text, num_bos, 0))
    except RuntimeError:
        return None


def written_by_runner(reader: Any, token: int) -> bytes:
    """What the runner writes for a token, in UTF-8; it may be a part of a character. Empty for an id without text."""
    try:
        return str(reader.decode(token)).encode()
    except UnicodeDecodeError as error:
        return bytes(error.object)
    except (RuntimeError, ValueError):  # its decoder fails, or nothing stands for the id
        return b""


def find_opening(original: Any, reader: Any) -> Opening:
    """What Transformers puts around a text, and how to have the runner do so.

    Raises:
        TokenizerError: The runner cannot be given it.
    """
    bare = [read_by(original, text) for text in _PLAIN]
    whole = [read_by(original, text, opening=True) for text in _PLAIN]
    around = {_around(inner, outer) for inner, outer in zip(bare, whole, strict=True)}
    if len(around) == 1 and (found := around.pop()):
        before, after = found
        prefix, suffix = ("".join(original.convert_ids_to_tokens(list(ids))) for ids in (before, after))
        for opening in (
            Opening(before, after),
            Opening(before, after, num_bos=1),
            Opening(before, after, prefix=prefix, suffix=suffix),
        ):
            given = [read_by_runner(reader, opening.text(text), opening.num_bos) for text in _PLAIN]
            if given == whole:
                return opening
    raise TokenizerError(
        "tokenizer-differs",
        f"Transformers reads {_PLAIN[0]!r} as {_list(whole[0])}; the runner gives other ids, also with num_bos=1 or "
        "with special tokens written in the text",
    )


def render(original: Any, messages: Sequence[Message]) -> str:
    """A conversation as the checkpoint's chat template renders it, up to where the model answers.

    Raises:
        TokenizerError: The checkpoint has no chat template, or it does not render this conversation.
    """
    if not original.chat_template:
        raise TokenizerError("no-chat-template", "the tokenizer has no chat template")
    try:
        return str(original.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program, which may raise anything
        raise TokenizerError("chat-template-failed", f"the chat template fails: {_first_line(error)}") from error


def chat_texts(original: Any) -> Iterator[Text]:
    """Conversations as the chat template renders them, if there is one."""
    asked = {"role": "user", "content": _QUESTION}
    more = ({"role": "assistant", "content": _REPLY}, {"role": "user", "content": _NEXT})
    for messages in ((asked,), (asked, *more), ({"role": "system", "content": _SYSTEM}, asked)):
        try:
            yield Text("chat template", render(original, messages))
        except TokenizerError:  # none, or one without system messages
            continue


def corpus(original: Any, vocab: int) -> Iterator[Text]:
    """Texts of every kind on which readers have been seen to differ, and those of the tokenizer's own tokens.

    Args:
        original: The tokenizer in Transformers.
        vocab: Number of the model's token ids. A tokenizer's class may add tokens beyond them, which no model reads:
            Transformers' GPT-2 adds `<|endoftext|>` to a tokenizer that lacks it.
    """
    for kind, text in _CORPUS:
        forms = dict.fromkeys((text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))))
        yield from (Text(kind, form) for form in forms)
    yield from chat_texts(original)
    for token, number in original.get_added_vocab().items():
        if number < vocab:
            yield from (Text("special tokens", text) for text in (token, f"a{token}b", f"One {token} two"))


def differences(original: Any, reader: Any, texts: Iterable[Text]) -> Iterator[Difference]:
    """Where the runner reads a text otherwise than Transformers, or writes otherwise what both read alike."""
    for each in texts:
        read, expected = read_by_runner(reader, each.text), read_by(original, each.text)
        if read != expected:
            observed = "not at all" if read is None else f"as {_list(read)}"
            yield Difference(
                each.kind, f"the runner reads {each.text!r} {observed}", f"{_list(expected)}, as Transformers", True
            )
            continue
        written = b"".join(written_by_runner(reader, token) for token in read).decode(errors="replace")
        decoded = original.decode(list(read), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        # An answer goes on from a prompt, so the runner keeps a first space that a whole text does not have.
        if written.removeprefix(" ") != decoded.removeprefix(" "):
            yield Difference(
                each.kind,
                f"the runner writes {_list(read)} as {written!r}",
                f"{decoded!r}, as Transformers",
                False,
            )


def _trial(directory: Path) -> Iterator[Any]:
    """In a child process: what the reader reads the plain texts as, or only its error."""
    try:
        reader = load_reader(directory)
    except TokenizerError as error:
        yield str(error)
        return
    for text in _PLAIN:
        yield read_by_runner(reader, text) or ()


def _refuse(directory: Path, reason: str) -> NoReturn:
    kind = _kind(directory)
    # Of another kind, the reason is the first thing in the file that looked unlike byte pairs.
    why = f": {reason}" if kind in ("BPE", _UNKNOWN) else ""
    raise TokenizerError(
        "unsupported-tokenizer", f"the runner cannot read this tokenizer of kind {kind}{why}; {RUNNER_READS}"
    )


def _kind(directory: Path) -> str:
    """The kind of model in a tokenizer.json, such as BPE or Unigram."""
    try:
        return str(json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]["type"])
    except (ValueError, KeyError, TypeError):
        return _UNKNOWN


def _reason(printed: str) -> str:
    """The reader's last line of log, without its place in the code and the exception's number."""
    lines = [line.rpartition("] ")[2].strip() for line in printed.splitlines() if "hf_tokenizer.cpp" in line]
    return lines[-1] if lines else ""


def _other_files(directory: Path) -> list[str]:
    return sorted(path.name for pattern in _OTHER_FILES for path in directory.glob(pattern) if path.is_file())


def _around(bare: tuple[int, ...], whole: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """What is in front of `bare` in `whole`, and what is behind it; None if it is not in there."""
    if not bare:  # no character of the text is known
        return whole, ()
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return None


def _list(ids: Sequence[int]) -> str:
    return str(list(ids))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


_CORPUS = (
    ("accents", "naïve café"),
    ("accents", "L’été où Noël tombe, à Zürich, pączki für 5 €. Việt Nam: Tiếng Việt. ÅNGSTRÖM"),
    ("compatibility characters", "ﬁne ½ ① ｆｕｌｌ ™ Å"),
    ("digits", "1 12 123 1234 12345 1234567890 3.14159 1,000,000 2026-11-29 x1y22z333"),
    ("tabs", "a\tb\t\tc\n\tindented"),
    ("newlines", "one\ntwo\n\nthree\n\n\nfour\r\nfive \n six"),
    ("trailing newline", "The end.\n"),
    ("trailing newlines", "The end.\n\n"),
    ("leading newline", "\nBegin"),
    ("double spaces", "two  spaces   three    four"),
    ("leading space", " begin"),
    ("leading spaces", "   begin"),
    ("trailing space", "end "),
    ("trailing spaces", "end   "),
    ("other spaces", "no\u00a0break, wide\u3000space, thin\u2009space"),
    ("code", "def step(x: int) -> int:\n    return x**2 + 1  # why?\n\n\nif x == '__main__':\n\tprint(f\"{x!r}\")\n"),
    ("code", '{"a": [1, 2.5e-3, null], "b": {"c": "\\n"}}; <a href="x">&amp;</a> $x_1^2$ == ===== ---- ....'),
    ("contractions", "I'm you're they've he'd it's don't we'll"),
    ("contractions", "I'M YOU'RE THEY'VE HE'D IT'S DON'T WE'LL o'Clock 'Tis"),
    ("case", "camelCase HTTPServer snake_case ÉCOLE STRASSE ß İi"),
    ("emoji", "👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 1️⃣ ❤️ 😀😀"),
    ("Chinese and Japanese", "今天天气很好，我们去公园。東京は日本の首都です。カタカナ、ひらがな。"),
    ("Korean", "안녕하세요, 한국어입니다."),
    ("right to left", "مَرْحَبًا بالعالم ١٢٣ שָׁלוֹם עולם"),
    ("Hindi", "नमस्ते दुनिया, क्षत्रिय १२३"),
    ("Thai", "สวัสดีชาวโลก น้ำ ที่นี่"),
    ("Cyrillic and Greek", "Привет, мир! Ёлка й. Γειά σου Κόσμε ΐ"),
    ("zero-width characters", "a\u200bb\u200cc\u200dd\ufeffe\u2060f soft\u00adhyphen"),
    ("mathematics", "∑∫≠≤ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 x² → y₁"),
)
