"""A conversation with a `.pte` file in the terminal, held by ExecuTorch's own LLM runner."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

#: What a person types to start again from an empty cache.
RESET = "/reset"
#: How much of what a lost runner said is shown.
_LAST_LINES = 4
#: What the runner's line of statistics begins with, and which of them are told.
_STATISTICS = b"PyTorchObserver "
_SPEEDS = (("prefill", "of the prompt"), ("decode", "of the answer"))


class ChatError(ValueError):
    """The program or the tokenizer is not what the runner takes; says what is wrong with which."""


@dataclass(frozen=True, slots=True)
class Chat:
    """What a conversation is held with.

    Args:
        program: The `.pte` file.
        tokenizer: The directory with `tokenizer.json`, or the file of another kind that the runner reads.
        most: New tokens in an answer; -1 for as many as there is room for.
        temperature: 0 for the likeliest token each time.
    """

    program: Path
    tokenizer: Path
    most: int
    temperature: float


def chat(asked: Chat, prompts: Iterable[str]) -> None:
    """Print the answer to each prompt as it comes, each going on from the one before.

    The runner has a process of its own: it aborts where a program is not what it expects.

    Raises:
        ChatError: A file is missing, or the runner refused or was lost, with what it said last.
    """
    for path in (asked.program, asked.tokenizer):
        if not path.exists():
            raise ChatError(f"{path}: no such file")
    sys.stdout.flush()
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as words:
        process = os.fork()
        if process == 0:
            os.close(reading)
            _serve(asked, prompts, writing, words.fileno())
        os.close(writing)
        with os.fdopen(reading, "rb", buffering=0) as answers:
            for part in told(iter(lambda: answers.read(4096), b"")):
                os.write(1, part)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        words.seek(0)
        said = [line.strip() for line in words.read().decode(errors="replace").splitlines() if line.strip()]
    if code:
        how = f"died of {signal.Signals(-code).name}" if code < 0 else "failed"
        raise ChatError(f"the runner {how}; its last words: {' | '.join(said[-_LAST_LINES:])}")


def told(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What the runner prints, as it comes, but for its statistics, of which the speeds are told."""
    held, fresh = b"", True
    for part in (part for chunk in chunks for part in chunk.splitlines(keepends=True)):
        held += part
        statistics = fresh and held.startswith(_STATISTICS)
        if not part.endswith(b"\n") and (statistics or (fresh and _STATISTICS.startswith(held))):
            continue  # it is, or may yet become, a line of statistics
        yield _speeds(held) if statistics else held
        held, fresh = b"", part.endswith(b"\n")
    yield held


def _speeds(line: bytes) -> bytes:
    try:
        values = json.loads(line.removeprefix(_STATISTICS))
        parts = [
            f"{values[f'{what}_token_per_sec']:.0f} tokens/s {name}"
            for what, name in _SPEEDS
            if values.get(f"{what}_token_per_sec")
        ]
    except ValueError:
        return b""
    return f"[{', '.join(parts)}]\n".encode() if parts else b""


def _serve(asked: Chat, prompts: Iterable[str], writing: int, words: int) -> NoReturn:
    """The forked process: it never returns."""
    code = 1
    faulthandler.disable()  # where the process that this one was forked from has it write a traceback of its own
    try:
        os.dup2(writing, 1)
        os.dup2(words, 2)  # the runner tells there what it does
        _converse(asked, prompts)
        code = 0
    except KeyboardInterrupt:
        code = 0
    except Exception as error:
        os.write(2, f"{error}\n".encode())
    finally:
        sys.stdout.flush()
        os._exit(code)


def _converse(asked: Chat, prompts: Iterable[str]) -> None:
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    runner = TextLLMRunner(str(asked.program), str(asked.tokenizer))
    config = GenerationConfig(max_new_tokens=asked.most, temperature=asked.temperature, echo=False)
    for prompt in prompts:
        if prompt == RESET:
            runner.reset()
        elif prompt:
            # Without a callback: the binding cannot hand over a token that is a part of a character, and would fail.
            runner.generate(prompt, config)
