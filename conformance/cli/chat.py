"""A conversation with a `.pte` file in the terminal, through ExecuTorch's LLM runner."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from conformance.process.fork import ending, fork, wait

#: A prompt that empties the cache.
RESET = "/reset"
#: Lines of a failed runner's output that are shown.
_LAST_LINES = 4
#: The prefix of the runner's line of statistics, and the speeds that are shown of them.
_STATISTICS = b"PyTorchObserver "
_SPEEDS = (("prefill", "of the prompt"), ("decode", "of the answer"))


class ChatError(ValueError):
    """A file is missing, or the runner failed."""


@dataclass(frozen=True, slots=True)
class Chat:
    """The settings of a conversation.

    Args:
        program: The `.pte` file.
        tokenizer: The directory with `tokenizer.json`, or a tokenizer file of another kind that the runner reads.
        most: New tokens in an answer; -1 for as many as there is room for.
        temperature: 0 for the likeliest token each time.
    """

    program: Path
    tokenizer: Path
    most: int
    temperature: float


def chat(settings: Chat, prompts: Iterable[str]) -> None:
    """Print the answer to each prompt as it comes, each continuing the conversation.

    The runner has a child process: it aborts on programs that it does not expect.

    Raises:
        ChatError: A file is missing, or the runner failed or crashed; with the end of its output.
    """
    for path in (settings.program, settings.tokenizer):
        if not path.exists():
            raise ChatError(f"{path}: no such file")
    sys.stdout.flush()
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as log:  # the runner logs to stderr
        child = fork(lambda: _converse(settings, prompts), stdout=writing, stderr=log.fileno())
        os.close(writing)  # or the end of the child would not be seen
        with os.fdopen(reading, "rb", buffering=0) as answers:
            for part in without_statistics(iter(lambda: answers.read(4096), b"")):
                os.write(1, part)
        code = wait(child)
        log.seek(0)
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    if code:
        how = ending(code) if code < 0 else "failed"
        raise ChatError(f"the runner {how}; runner output: {' | '.join(lines[-_LAST_LINES:]) or 'none'}")


def without_statistics(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The runner's output as it comes, with the speeds in place of its line of statistics."""
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
            f"{values[f'{phase}_token_per_sec']:.0f} tokens/s {of}"
            for phase, of in _SPEEDS
            if values.get(f"{phase}_token_per_sec")
        ]
    except ValueError:
        return b""
    return f"[{', '.join(parts)}]\n".encode() if parts else b""


def _converse(settings: Chat, prompts: Iterable[str]) -> int:
    """In the child process; returns its exit code."""
    try:
        _answer(settings, prompts)
    except KeyboardInterrupt:
        pass  # Ctrl-C ends the conversation
    except Exception as error:
        os.write(2, f"{error}\n".encode())
        return 1
    finally:
        sys.stdout.flush()
    return 0


def _answer(settings: Chat, prompts: Iterable[str]) -> None:
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    runner = TextLLMRunner(str(settings.program), str(settings.tokenizer))
    config = GenerationConfig(max_new_tokens=settings.most, temperature=settings.temperature, echo=False)
    for prompt in prompts:
        if prompt == RESET:
            runner.reset()
        elif prompt:
            # Without a callback: the binding cannot hand over a token that is a part of a character, and would fail.
            runner.generate(prompt, config)
