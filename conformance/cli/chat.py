"""A conversation with a `.pte` file in the terminal, through ExecuTorch's LLM runner."""

from __future__ import annotations

import codecs
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance.core.errors import InputError
from conformance.core.verdicts import NotRunError
from conformance.decoding import reading
from conformance.decoding.custom_operators import register_operators_of
from conformance.decoding.reading import Message, Opening, TokenizerError
from conformance.process.fork import collect, ending

if TYPE_CHECKING:
    from conformance.pipeline.program_file import ProgramFile

#: A prompt that empties the cache.
RESET = "/reset"
#: Lines of a crashed runner's output that are shown, and characters of a prompt and its ids.
_LAST_LINES, _SHOWN = 4, 160
#: The speeds that are shown of the runner's statistics.
_SPEEDS = (("prefill", "of the prompt"), ("decode", "of the answer"))
#: ExecuTorch's errors (runtime/core/error.h) in the runner's output, and their meaning for a program.
_ERROR = re.compile(r"0x0*([0-9a-f]+)\b")
_ERRORS = {
    "10": "something in it is not supported",
    "12": "it refuses an input of this size or position",
    "13": "it refuses an input of this type",
    "14": "one of its operators has no kernel in this ExecuTorch",
    "20": "its backend is not in this ExecuTorch",
    "21": "memory ran out",
    "23": "the program is damaged",
    "30": "its backend has another version",
}


class ChatError(InputError):
    """A file is missing, a prompt cannot be answered, or the runner failed."""


@dataclass(frozen=True, slots=True)
class Chat:
    """The settings of a conversation.

    Args:
        program: The `.pte` file.
        tokenizer: The directory with `tokenizer.json`, or that file.
        most: New tokens in an answer; -1 for as many as there is room for.
        temperature: 0 for the likeliest token each time.
        template: Whether prompts are rendered by the tokenizer's chat template.
        system: The system message that the template gets.
    """

    program: Path
    tokenizer: Path
    most: int = -1
    temperature: float = 0.0
    template: bool = False
    system: str | None = None


def chat(settings: Chat, prompts: Iterable[str]) -> None:
    """Print the answer to each prompt as it comes, each continuing the conversation.

    The runner has a child process: it aborts on programs that it does not expect.

    Raises:
        ChatError: A file is missing, the runner cannot read the tokenizer or the prompt, the cache is full, or the
            runner failed or crashed. Earlier answers stay on the screen.
    """
    for path in (settings.program, settings.tokenizer):
        if not path.exists():
            raise ChatError("file-error", f"{path}: no such file")
    sys.stdout.flush()
    screen, notes = os.dup(1), os.dup(2)  # the runner prints its own lines to both
    try:
        # Directory and file are this process's: the other one may end without leaving anything behind in order.
        with tempfile.TemporaryDirectory(prefix="conformance-chat-") as copy, tempfile.TemporaryFile() as log:
            output = _Output(screen, notes, log.fileno())
            failed, code = collect(
                lambda: _converse(settings, prompts, Path(copy), output), output=log.fileno(), seconds=None
            )
            log.seek(0)
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    finally:
        os.close(screen)
        os.close(notes)
    if failed:
        raise ChatError(*failed[0])
    if code:
        how = ending(code) if code < 0 else "failed"
        raise ChatError(
            "runner-failed", f"the runner {how}; runner output: {' | '.join(lines[-_LAST_LINES:]) or 'none'}"
        )


@dataclass(frozen=True, slots=True)
class _Output:
    """Where a conversation goes: file descriptors of the terminal, and of the file that the runner logs to."""

    screen: int
    notes: int
    log: int

    def show(self, text: str) -> None:
        """A part of an answer."""
        os.write(self.screen, text.encode())

    def note(self, text: str) -> None:
        """A sentence about the conversation."""
        os.write(self.notes, f"note: {text}\n".encode())

    def logged(self, start: int) -> str:
        """What the runner has logged from byte `start` on."""
        return os.pread(self.log, 1 << 20, start).decode(errors="replace")


@dataclass
class _Conversation:
    """The runner with what is in its cache.

    `held` is the number of tokens in it, `text` their text as the chat template renders it, and `messages` the input of
    the template.
    """

    settings: Chat
    program: ProgramFile
    tokens: _Tokens
    runner: Any
    output: _Output
    held: int = 0
    text: str = ""
    messages: list[Message] = field(default_factory=list)

    def reset(self) -> None:
        """Forget all turns."""
        self.runner.reset()
        self.held, self.text = 0, ""
        self.messages.clear()

    def answer(self, prompt: str) -> None:
        """Show the answer to one prompt.

        Raises:
            ChatError: There is no room for it, the runner cannot read it, or failed.
        """
        if not prompt:
            raise ChatError("empty-prompt", "the prompt is empty; the runner needs at least one token")
        text, opening, expected = self._templated(prompt) if self.settings.template else self._plain(prompt)
        ids = reading.read_by_runner(self.tokens.reader, text, opening.num_bos)
        if not ids:
            raise ChatError("empty-prompt", f"the tokenizer has no ids for the prompt {_short(repr(text))}")
        if ids != expected:
            shown = f"{_short(repr(text))} as {_short(str(list(ids)))}"
            self.output.note(f"the runner reads {shown}, and Transformers as {_short(str(list(expected)))}")
        room = self.program.cache_length - self.held - len(ids)
        if room < 1:
            raise ChatError("cache-full", self._no_room(len(ids)))
        answered = self._generate(text, opening.num_bos, len(ids), room)
        self.held += len(ids) + max(0, len(answered) - 1)  # the last token is shown, and not given to the program
        self.text = text if not self.text else self.text + text
        ended = bool(answered) and answered[-1] in self.tokens.ends(self.program)
        self.text += self.tokens.text(answered[:-1])
        self.messages.append({"role": "assistant", "content": self.tokens.text(answered[:-1] if ended else answered)})
        if len(answered) >= room and not ended:
            self.output.note(f"the cache of {self.program.cache_length} tokens is full, which ends the answer")

    def _plain(self, prompt: str) -> tuple[str, Opening, tuple[int, ...]]:
        """What to send for a prompt as it is, and the ids that Transformers gives to a model for it."""
        first = not self.held
        opening = self.tokens.opening if first else Opening()
        return opening.text(prompt), opening, reading.read_by(self.tokens.original, prompt, opening=first)

    def _templated(self, prompt: str) -> tuple[str, Opening, tuple[int, ...]]:
        """The same for a prompt that the chat template renders: only the new part of the conversation's text."""
        if not self.messages and self.settings.system is not None:
            self.messages.append({"role": "system", "content": self.settings.system})
        self.messages.append({"role": "user", "content": prompt})
        whole = reading.render(self.tokens.original, self.messages)
        if not whole.startswith(self.text):
            self.output.note("the chat template writes earlier turns otherwise than they were sent; all are sent again")
            self.runner.reset()
            self.held, self.text = 0, ""
        new = whole[len(self.text) :]
        return new, Opening(), reading.read_by(self.tokens.original, new)

    def _generate(self, text: str, num_bos: int, prompt_tokens: int, room: int) -> list[int]:
        """The ids of the answer, which is shown token by token."""
        from executorch.extension.llm.runner import GenerationConfig

        settings, answered, statistics = self.settings, list[int](), list[str]()
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a token may be a part of a character, or no part
        # Always bounded: where a call may be shorter than the cache, the runner takes the cache to be empty.
        most = min(settings.most, room) if settings.most > 0 else room
        config = GenerationConfig(max_new_tokens=most, temperature=settings.temperature, echo=False, num_bos=num_bos)

        def show(piece: str) -> None:
            token = self.tokens.id_of(piece)
            answered.append(token)
            self.output.show(decoder.decode(self.tokens.written(token)))

        start = os.fstat(self.output.log).st_size
        try:
            self.runner.generate(text, config, show, lambda stats: statistics.append(stats.to_json_string()))
        except RuntimeError as error:
            self.output.show(decoder.decode(b"", final=True) + "\n" * bool(answered))
            raise ChatError("runner-failed", self._failure(prompt_tokens, len(answered), start)) from error
        self.output.show(f"{decoder.decode(b'', final=True)}\n{''.join(map(_speeds, statistics))}")
        return answered

    def _no_room(self, size: int) -> str:
        length, left = self.program.cache_length, self.program.cache_length - self.held
        if self.held:
            return (
                f"the prompt has {size} tokens, the cache of {length} has room for {left}, and the answer needs one of "
                f"them; {RESET} empties the cache"
            )
        return (
            f"the prompt has {size} tokens, the cache {length}, and the answer needs one of them; export the model "
            "with a larger --cache-length"
        )

    def _failure(self, prompt_tokens: int, answered: int, start: int) -> str:
        position = self.held + prompt_tokens + max(0, answered - 1)
        if position >= self.program.cache_length:
            return f"the cache of {self.program.cache_length} tokens is full, and the program fails beyond it"
        codes = [code for code in _ERROR.findall(self.output.logged(start)) if code in _ERRORS]
        why = f": {_ERRORS[codes[-1]]} (ExecuTorch's error 0x{codes[-1]})" if codes else ""
        when = f"after {answered} tokens of the answer, at position {position}" if answered else "at the prompt"
        return f"the program fails {when}{why}"


class _Tokens:
    """A tokenizer: as Transformers has it, as the runner reads it, and with the runner's answers as ids.

    ExecuTorch's Python binding cannot pass on a token that is a part of a character. So the runner gets a copy of the
    tokenizer without a decoder, which writes each token as it stands in the vocabulary.
    """

    def __init__(self, directory: Path, copy: Path) -> None:
        reading.require_readable(directory)
        self.original = reading.load_original(directory)
        self.reader = reading.load_reader(directory)
        self.opening = Opening()
        self.size = int(self.reader.vocab_size())
        plain = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
        (copy / "tokenizer.json").write_text(json.dumps({**plain, "decoder": None}), encoding="utf-8")
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (directory / name).is_file():
                shutil.copy(directory / name, copy)
        vocabulary = reading.load_reader(copy)
        pieces = (reading.written_by_runner(vocabulary, token).decode(errors="replace") for token in range(self.size))
        self._ids = {piece: token for token, piece in enumerate(pieces)}

    def id_of(self, piece: str) -> int:
        """The id that the runner writes as `piece` without a decoder; -1 for none."""
        return self._ids.get(piece, -1)

    def written(self, token: int) -> bytes:
        """What the runner writes for a token with the tokenizer as it is, in UTF-8."""
        return reading.written_by_runner(self.reader, token)

    def text(self, ids: Iterable[int]) -> str:
        """The same for several."""
        return b"".join(map(self.written, ids)).decode(errors="replace")

    def ends(self, program: ProgramFile) -> tuple[int, ...]:
        """The ids that end an answer."""
        return program.ends or (int(self.reader.eos_tok()),)


def _converse(settings: Chat, prompts: Iterable[str], copy: Path, output: _Output) -> Iterator[tuple[str, str]]:
    """In the child process: hold the conversation; yields the code and the message of what ended it, if anything."""
    try:
        conversation = _begin(settings, copy, output)
        for prompt in prompts:
            if prompt == RESET:
                conversation.reset()
            else:
                conversation.answer(prompt)
    except (ChatError, TokenizerError) as error:
        yield error.code, error.message
    except KeyboardInterrupt:
        pass  # Ctrl-C ends the conversation


def _begin(settings: Chat, copy: Path, output: _Output) -> _Conversation:
    """Load the program and the tokenizer, and note what an app has to know of them."""
    from executorch.extension.llm.runner import TextLLMRunner

    program = _read(settings.program)
    with settings.program.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        try:
            register_operators_of(content)
        except NotRunError as error:
            raise ChatError("missing-package", f"{settings.program} cannot be run here: {error}") from error
    path = settings.tokenizer
    if path.is_file() and path.name != "tokenizer.json":
        raise ChatError("no-tokenizer", f"{path} is not a tokenizer.json; {reading.RUNNER_READS}")
    tokens = _Tokens(path.parent if path.is_file() else path, copy)
    if tokens.size > program.vocab:
        raise ChatError(
            "other-model",
            f"{path} has {tokens.size} ids, the program {program.vocab} logits, past whose end the runner would read; "
            "pass the tokenizer of the program's model",
        )
    if tokens.size < program.vocab:
        output.note(
            f"the tokenizer has {tokens.size} ids and the program logits for {program.vocab}; the runner never "
            "chooses the others"
        )
    end = tokens.original.eos_token_id
    if program.ends and end is not None and end not in program.ends:
        output.note(
            f"texts end with {list(program.ends)} by the program, and with {end} by the tokenizer; if it is another "
            "model's, the answers mean nothing"
        )
    if settings.template:
        reading.render(tokens.original, [{"role": "user", "content": "x"}])  # an error here, not at the first prompt
    else:
        try:
            tokens.opening = reading.find_opening(tokens.original, tokens.reader)
        except TokenizerError as error:
            output.note(str(error))
        if str(tokens.opening):
            output.note(f"{tokens.opening} is set: Transformers begins a text so, and an app has to do the same")
    try:
        runner = TextLLMRunner(str(settings.program), str(copy))
    except RuntimeError as error:
        raise ChatError("runner-failed", f"the runner does not load {settings.program}") from error
    return _Conversation(settings, program, tokens, runner, output)


def _read(path: Path) -> ProgramFile:
    """The program in `path`, which has one row a call, as the runner does.

    Raises:
        ChatError: It is not a program that the runner can decode with.
    """
    from conformance.pipeline.program_file import ProgramFileError, read_program

    try:
        program = read_program(path)
    except ProgramFileError as error:
        raise ChatError(error.code, str(error)) from error
    if program.rows != 1:
        raise ChatError(
            "unsupported-program",
            f"{path} takes {program.rows} rows a call, the runner passes 1; export the model with --batch-size 1",
        )
    return program


def _speeds(statistics: str) -> str:
    values = json.loads(statistics)
    parts = [
        f"{values[f'{phase}_token_per_sec']:.0f} tokens/s {of}"
        for phase, of in _SPEEDS
        if values.get(f"{phase}_token_per_sec")
    ]
    return f"[{', '.join(parts)}]\n" if parts else ""


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
